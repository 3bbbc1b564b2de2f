"""The doors of experiments: what may be kept, started, stopped and changed."""

from datetime import UTC, datetime

import pytest

from clusters import catalogue, experiments, inventory
from clusters.inventory import InventoryError
from clusters.models import Experiment, Route

pytestmark = pytest.mark.django_db(databases="__all__")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ARMS = [{"model": "llama", "weight": 90}, {"model": "mini", "weight": 10}]


@pytest.fixture(autouse=True)
def route():
    catalogue.put_route(model="fast", values={"candidates": ["llama", "mini"]})


def put(name="trial", **values):
    return catalogue.put_experiment(name=name, route="fast", values={"arms": ARMS, **values})


def revision():
    return inventory.Revision.objects.values_list("number", flat=True).first()


def test_draft_runs_once_and_each_step_counts_a_revision():
    assert put().is_new
    before = revision()

    assert experiments.start_experiment(name="trial", now=NOW) is True
    assert experiments.start_experiment(name="trial", now=NOW) is False
    assert revision() == before + 1
    assert experiments.stop_experiment(name="trial", reason="enough", now=NOW) is True
    assert experiments.stop_experiment(name="trial", reason="again", now=NOW) is False

    view = experiments.get_experiment(name="trial")
    assert (view.state, view.started_at, view.stopped_at, view.stopped_reason) == (
        "stopped",
        NOW,
        NOW,
        "enough",
    )
    assert revision() == before + 2
    with pytest.raises(InventoryError, match="under a new name"):
        experiments.start_experiment(name="trial", now=NOW)


def test_one_experiment_runs_on_a_route():
    put()
    put("second")
    experiments.start_experiment(name="trial", now=NOW)

    with pytest.raises(InventoryError, match="experiment trial runs on this route; stop it first"):
        experiments.start_experiment(name="second", now=NOW)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arms": []}, "2 to 10 arms"),
        ({"arms": ARMS[:1]}, "2 to 10 arms"),
        ({"arms": [ARMS[0], ARMS[0]]}, "the same model"),
        ({"arms": [{"model": "a", "weight": 0}, {"model": "b", "weight": 0}]}, "all weights are 0"),
        ({"arms": [{"model": "a", "weight": -1}, ARMS[1]]}, "a weight is a whole number"),
        ({"arms": [{"model": "a", "weight": True}, ARMS[1]]}, "a weight is a whole number"),
        ({"arms": [{"model": "a"}, ARMS[1]]}, "a model and a weight"),
        ({"ramp_s": 91 * 86_400}, "at most 90 days"),
        ({"ramp_s": 1, "ramp_steps": [{"after_s": 0, "percent": 5}]}, "leave one of them out"),
        ({"ramp_steps": [{"after_s": 0, "percent": 50}, {"after_s": 9, "percent": 5}]}, "never fall"),
        ({"ramp_steps": [{"after_s": 9, "percent": 5}, {"after_s": 9, "percent": 6}]}, "follow each other"),
        ({"ramp_steps": [{"after_s": 0, "percent": 101}]}, "0 to 100 percent"),
        ({"samples_min": 29}, "30"),
    ],
)
def test_what_makes_no_sense_is_refused(values, said):
    with pytest.raises(InventoryError, match=said):
        put(**values)

    assert not Experiment.objects.exists()


def test_started_experiment_keeps_its_arms_and_may_change_their_weights():
    put()
    experiments.start_experiment(name="trial", now=NOW)

    put(arms=[{"model": "llama", "weight": 50}, {"model": "mini", "weight": 50}])
    with pytest.raises(InventoryError, match="keeps its arms"):
        put(arms=[ARMS[1], ARMS[0]])
    with pytest.raises(InventoryError, match="keeps its arms"):
        put(arms=[ARMS[0], {"model": "other", "weight": 10}])

    assert experiments.get_experiment(name="trial").arms == (("llama", 50), ("mini", 50))


def test_experiment_of_no_route_is_refused():
    with pytest.raises(InventoryError, match="there is no route 'none'"):
        catalogue.put_experiment(name="trial", route="none", values={"arms": ARMS})


# --- The admin's form


FORM = {
    "name": "trial",
    "arms_lines": "llama 90\nmini: 10",
    "ramp": "0m 5%\n30m 25%, 2h 100%",
    "error_increase_points": "2.5",
    "latency_increase_percent": "40",
    "samples_min": "200",
}


def send(admin_client, **changed):
    data = {**FORM, "route": str(Route.objects.get().id), **changed}
    return admin_client.post("/admin/clusters/experiment/add/", data)


def test_form_takes_lines_that_a_person_writes(admin_client):
    assert send(admin_client).status_code == 302

    view = experiments.get_experiment(name="trial")
    assert (view.arms, view.ramp_steps) == (
        (("llama", 90), ("mini", 10)),
        ((0, 5), (1800, 25), (7200, 100)),
    )
    assert (view.guards.error_increase_permille, view.guards.latency_increase_percent) == (25, 40)
    page = admin_client.get(f"/admin/clusters/experiment/{Experiment.objects.get().id}/change/")
    assert "0s 5%\n30m 25%\n2h 100%" in page.content.decode()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arms_lines": "llama"}, "is no arm: write a model"),
        ({"arms_lines": "llama 1"}, "compares 2 to 10 arms"),
        ({"ramp": "soon"}, "is no step: write how long"),
        ({"ramp": "1h 50%\n2h 10%"}, "never fall"),
        ({"samples_min": "3"}, "greater than or equal to 30"),
    ],
)
def test_form_says_what_is_wrong(admin_client, changed, said):
    answer = send(admin_client, **changed)

    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert not Experiment.objects.exists()


def test_actions_start_and_stop(admin_client):
    put()
    chosen = {"_selected_action": [str(Experiment.objects.get().id)]}

    admin_client.post("/admin/clusters/experiment/", {"action": "start", **chosen})
    assert experiments.get_experiment(name="trial").state == "running"
    started = admin_client.get(f"/admin/clusters/experiment/{chosen['_selected_action'][0]}/change/")
    assert started.status_code == 200
    admin_client.post("/admin/clusters/experiment/", {"action": "stop", **chosen})

    view = experiments.get_experiment(name="trial")
    assert (view.state, view.stopped_reason) == ("stopped", "stopped by hand")
