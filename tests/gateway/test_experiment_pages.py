"""The page and the command that compare an experiment's arms."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import ledger
from billing.entries import Batch
from clusters import catalogue, experiments
from tests.billing.holds import NOW, new_hold, new_settlement
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")
PATH = "/usage/experiments/"


def add_experiment(*, name="trial", is_started=True, **values):
    catalogue.put_route(model="fast", values={"candidates": ["llama", "mini"]})
    arms = [{"model": "llama", "weight": 90}, {"model": "mini", "weight": 10}]
    catalogue.put_experiment(name=name, route="fast", values={"arms": arms, **values})
    if is_started:
        experiments.start_experiment(name=name, now=NOW)


def settle(arm, *, count, outcome="ok", ttft_ms=100):
    holds = [
        new_hold(held_nanousd=10**9, experiment="trial", arm=arm, served_model=arm) for _ in range(count)
    ]
    ledger.commit(Batch(holds=holds))
    settled = [
        replace(
            new_settlement(hold, input_tokens=100 + place, outcome=outcome), ttft_ms=ttft_ms + 7 * (place % 9)
        )
        for place, hold in enumerate(holds)
    ]
    ledger.commit(Batch(settlements=settled))


def texts(response):
    return " ".join(response.content.decode().split())


def test_page_is_for_staff(client):
    answer = client.get(PATH)

    assert (answer.status_code, answer.url) == (302, f"/admin/login/?next={PATH}")


def test_page_without_experiments_says_how_to_begin(admin_client):
    assert "No experiment yet" in texts(admin_client.get(PATH))


def test_page_shows_arms_side_by_side(admin_client):
    add_experiment(ramp_s=3600)
    settle("llama", count=60)
    settle("mini", count=40, ttft_ms=300)
    settle("mini", count=20, outcome="truncated", ttft_ms=300)

    shown = texts(admin_client.get(PATH))

    assert "trial" in shown
    assert "control, weight 90, now " in shown
    assert "The ramp has reached " in shown
    assert "<strong>33.3%</strong> <small>22.7% to 45.9%</small>" in shown
    assert '<span class="badge badge-bad">worse</span> +33.3 points' in shown


@pytest.mark.parametrize("count", [1, 3])
def test_page_asks_as_many_queries_however_many_attempts(
    admin_client, django_assert_max_num_queries, settings, count
):
    add_experiment()
    settle("llama", count=10 * count)
    admin_client.get(PATH)

    # Two of the ledger; in one database the session, the user and the experiments are among them.
    expected = 5 if settings.LEDGER_DATABASE == "default" else 2
    with django_assert_max_num_queries(expected, using=settings.LEDGER_DATABASE) as captured:
        admin_client.get(PATH)

    assert len(captured) == expected


def test_page_of_an_unknown_experiment_is_not_found(admin_client):
    answer = admin_client.get(PATH, {"name": "nowhere"})

    assert answer.status_code == 404
    assert "there is no experiment" in texts(answer)


def test_stopped_experiment_says_why(admin_client):
    add_experiment()
    experiments.stop_experiment(name="trial", reason="mini failed", now=NOW)

    assert "UTC: mini failed." in texts(admin_client.get(PATH))


def test_report_command_gives_the_same_figures():
    add_experiment()
    settle("llama", count=30)
    out, as_json = StringIO(), StringIO()

    call_command("experiment_report", "trial", stdout=out)
    call_command("experiment_report", "trial", "--json", stdout=as_json)

    document = json.loads(as_json.getvalue())
    assert out.getvalue().splitlines()[0] == "trial on fast: running"
    assert [(arm["arm"], arm["attempts"]) for arm in document["arms"]] == [("llama", 30), ("mini", 0)]
    assert document["arms"][1]["differences"]["error_rate"] is None


def test_report_command_of_an_unknown_name_says_so():
    with pytest.raises(CommandError, match="there is no experiment 'nowhere'"):
        call_command("experiment_report", "nowhere")
