"""The memory of who served what: how a session is named, what is hashed, when it is not even looked at."""

import orjson
import pytest

from gateway.affinity import AffinityMemory, session_name
from gateway.schemas import decode_completion
from routing.affinity import BLOCK_BYTES
from routing.types import Affinity, RoutePlan
from tests.changes import replace
from tests.routing.values import deployment, provider

LONG = "x" * 3000
PLAN = RoutePlan(
    model="m", policy="", candidates=(deployment("a"), deployment("b"), provider("p")), fallbacks=()
)


def asked(text=LONG, *, headers=(), surface="chat", **members):
    prompt = {"chat": {"messages": [{"role": "user", "content": text}]}, "embeddings": {"input": text}}
    prompt["completions"] = {"prompt": text}
    body = orjson.dumps({**members, "model": "m", **prompt[surface]})
    return decode_completion(surface=surface, body=body, depth_max=64, needs_priced=False, headers=headers)


def known(memory, request, *, key_id="k", plan=PLAN, window_s=60.0, now_s=0.0):
    return memory.of_request(request, key_id=key_id, plan=plan, window_s=window_s, now_s=now_s)


def served(memory, request, place, *, now_s=0.0, key_id="k"):
    affinity = known(memory, request, now_s=now_s, key_id=key_id)
    memory.on_dispatch(affinity, deployment_id=place, now_s=now_s)


@pytest.mark.parametrize(
    ("headers", "document", "name"),
    [
        ([], {}, ""),
        ([(b"x-gateway-session", b"h")], {"prompt_cache_key": "p", "user": "u"}, "h"),
        ([], {"user": "u", "safety_identifier": "s", "prompt_cache_key": "p"}, "p"),
        ([], {"user": "u", "safety_identifier": "s"}, "s"),
        ([], {"user": "u"}, "u"),
        ([(b"x-gateway-session", b"")], {"user": "u"}, "u"),
        ([(b"x-gateway-session", b"h" * 257)], {"prompt_cache_key": "p" * 257, "user": "u"}, "u"),
        ([], {"prompt_cache_key": 7, "safety_identifier": None, "user": ["u"]}, ""),
    ],
)
def test_session_is_named_by_the_header_or_else_by_the_body(headers, document, name):
    assert session_name(headers, document) == name


def test_prompt_is_known_by_its_beginning_whatever_stands_before_it():
    memory = AffinityMemory()
    served(memory, asked(temperature=1), "a")

    # 2.9 blocks of the first prompt are those of the second.
    again = known(memory, asked(LONG + "more" * 500, temperature=0.125, metadata={"n": "1"}))

    assert again.served_by == ("a",)
    assert (len(again.prefix_hashes), again.session) == (4, None)
    assert known(memory, asked("y" * 3000)).served_by == ()


def test_prompts_of_other_surfaces_and_short_ones():
    memory = AffinityMemory()

    assert len(known(memory, asked(surface="completions")).prefix_hashes) == 2
    assert known(memory, asked(surface="embeddings")) is None
    assert known(memory, asked("short")) is None
    assert known(memory, asked("short", user="u")) == Affinity(session=("k", "u"))
    assert len(asked("x" * BLOCK_BYTES).body) > BLOCK_BYTES


def test_session_comes_before_the_prefix_and_belongs_to_its_key():
    memory = AffinityMemory()
    served(memory, asked(), "a")
    served(memory, asked("other", user="u"), "b")

    assert known(memory, asked(user="u")).served_by == ("b", "a")
    assert known(memory, asked(user="u"), key_id="another").served_by == ("a",)
    # A prefix is what an engine's cache holds: whoever sent it.
    assert known(memory, asked(), key_id="another").served_by == ("a",)


def test_session_ends_with_its_window():
    memory = AffinityMemory()
    served(memory, asked("hi", user="u"), "a", now_s=0.0)

    assert known(memory, asked("hi", user="u"), now_s=59.9).served_by == ("a",)
    assert known(memory, asked("hi", user="u"), now_s=60.0).served_by == ()


def test_nothing_is_looked_at_where_it_cannot_matter():
    memory = AffinityMemory()
    one_each = replace(
        PLAN, candidates=(deployment("a"), deployment("b", billing="autoscaled"), provider("p"))
    )

    assert known(memory, asked(user="u"), window_s=0.0) is None
    assert known(memory, asked(user="u"), plan=one_each) is None
    assert known(memory, asked(user="u")) is not None
