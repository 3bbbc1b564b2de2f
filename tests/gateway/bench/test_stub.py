import time

import orjson
import pytest

from gateway.bench.processes import call

CHAT = "/v1/chat/completions"


def chat(stub, **members):
    body = orjson.dumps({"model": "m", "messages": [], **members})
    status, answer = call(port=stub.port, method="POST", path=CHAT, body=body)
    assert status == 200
    return answer


def frames(stub, **members):
    return [
        frame.removeprefix(b"data: ") for frame in chat(stub, stream=True, **members).split(b"\n\n") if frame
    ]


def test_plain_answer_has_about_a_kilobyte_and_its_usage(stub):
    answer = chat(stub)

    assert 900 < len(answer) < 1200
    assert orjson.loads(answer)["usage"] == {
        "prompt_tokens": 52,
        "completion_tokens": 180,
        "total_tokens": 232,
    }


@pytest.mark.parametrize(
    "mode", [{"burst_chunks": 4}, {"interval_ms": 1.0}, {"burst_chunks": 3, "interval_ms": 1.0}]
)
def test_stream_has_its_chunks_whatever_its_pace(stub, mode):
    stub.set_mode(chunk_count=10, **mode)

    contents = [orjson.loads(frame)["choices"][0]["delta"] for frame in frames(stub)[:-2]]

    words = [" ran", " fox", " the", " out", " far", " hid", " and", " off"]
    assert [delta["content"] for delta in contents] == [*words, *words[:2]]


def test_paced_stream_takes_its_time(stub):
    stub.set_mode(chunk_count=11, interval_ms=10.0)
    begun_s = time.monotonic()

    chat(stub, stream=True)

    assert time.monotonic() - begun_s >= 0.095


def test_usage_comes_where_it_was_asked_for_only(stub):
    with_usage = frames(stub, stream_options={"include_usage": True})
    without = frames(stub)

    assert orjson.loads(with_usage[-2])["usage"]["completion_tokens"] == 180
    assert orjson.loads(with_usage[-2])["choices"] == []
    assert (with_usage[-1], without[-1]) == (b"[DONE]", b"[DONE]")
    assert len(with_usage) == len(without) + 1


def test_stream_is_recognised_behind_a_megabyte_of_prompt(stub):
    body = orjson.dumps({"messages": "x" * 1_000_000, "stream": True})

    _, answer = call(port=stub.port, method="POST", path=CHAT, body=body)

    assert answer.startswith(b"data: ")


def test_other_paths_answer_embeddings_and_models(stub):
    embedding = call(port=stub.port, method="POST", path="/v1/embeddings", body=b"{}")
    models = call(port=stub.port, method="GET", path="/v1/models")

    assert len(orjson.loads(embedding[1])["data"][0]["embedding"]) == 128
    assert orjson.loads(models[1])["data"][0]["id"] == "bench-model"
