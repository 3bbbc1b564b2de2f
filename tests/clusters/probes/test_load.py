import pytest

from clusters.probes.load import Load, mean_ttft_ms, measured_tokens_per_s, read_load

VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
vllm:num_requests_waiting{engine="1",model_name="a"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a"} 1000.0
vllm:generation_tokens_total{engine="1",model_name="a"} 500.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 4.0
vllm:time_to_first_token_seconds_count{engine="0"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0"} 2.0
"""
LLAMACPP = """\
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 64
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 4321.6
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 5
"""
SGLANG = """\
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="a"} 7
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="a"} 8
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="a"} 9
# TYPE sglang:gen_throughput gauge
sglang:gen_throughput{model_name="a"} 10
"""
TGI = """\
# TYPE tgi_queue_size gauge
tgi_queue_size 2
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 3
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="+Inf"} 2
tgi_request_generated_tokens_sum 40
tgi_request_generated_tokens_count 2
"""


def load(**values):
    names = ("queue_depth", "running_count", "generated_tokens_total", "gauge_tokens_per_s")
    return Load(**{**dict.fromkeys((*names, "ttft_s_sum", "ttft_count")), **values})


@pytest.mark.parametrize(
    ("backend", "text", "expected"),
    [
        ("vllm", VLLM, (1, 5, 1500, None, 2.0, 4)),
        ("llamacpp", LLAMACPP, (5, 1, 64, 4322, None, None)),
        ("sglang", SGLANG, (7, 8, 9, 10, None, None)),
        ("tgi", TGI, (2, 3, 40, None, None, None)),
    ],
)
def test_load_is_read_by_the_backends_names_and_summed(backend, text, expected):
    names = ("queue_depth", "running_count", "generated_tokens_total")
    names += ("gauge_tokens_per_s", "ttft_s_sum", "ttft_count")

    assert read_load(backend=backend, text=text) == Load(**dict(zip(names, expected, strict=True)))


def test_newer_name_is_read_where_the_old_one_is_gone():
    text = (
        'vllm:num_requests_waiting_by_reason{reason="capacity"} 2\n'
        'vllm:num_requests_waiting_by_reason{reason="deferred"} 3\n'
    )

    assert read_load(backend="vllm", text=text) == load(queue_depth=5)


@pytest.mark.parametrize("text", ["", "other_metric 1\n", "# TYPE vllm:num_requests_waiting gauge\n"])
def test_missing_metric_is_unknown_not_zero(text):
    assert read_load(backend="vllm", text=text) == load()


def test_line_of_another_series_is_not_even_parsed():
    text = "someone:elses{broken 1\nvllm:num_requests_waiting 5\n"

    assert read_load(backend="vllm", text=text) == load(queue_depth=5)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_nonsense_is_unknown(value):
    assert read_load(backend="vllm", text=f"vllm:num_requests_waiting {value}\n") == load()


@pytest.mark.parametrize("text", ["<html>no</html>", "a{b 1", "vllm:num_requests_waiting one\n", "\x00\x01"])
def test_what_is_no_metrics_page_is_no_load(text):
    assert read_load(backend="vllm", text=text) is None


@pytest.mark.parametrize(
    ("before", "after", "gap_s", "expected"),
    [
        (
            load(running_count=1, generated_tokens_total=100),
            load(running_count=1, generated_tokens_total=400),
            1.5,
            200,
        ),
        (
            load(running_count=1, generated_tokens_total=100),
            load(running_count=0, generated_tokens_total=200),
            1.0,
            100,
        ),
        (load(running_count=2), load(running_count=2, gauge_tokens_per_s=90), 1.0, 90),
        (
            load(running_count=2, generated_tokens_total=0),
            load(running_count=2, generated_tokens_total=50, gauge_tokens_per_s=90),
            1.0,
            90,
        ),
        (
            load(running_count=0, gauge_tokens_per_s=90),
            load(running_count=0, gauge_tokens_per_s=90),
            0.0,
            None,
        ),
        (load(gauge_tokens_per_s=90), load(gauge_tokens_per_s=90), 0.0, None),
        (
            load(running_count=1, generated_tokens_total=9),
            load(running_count=1, generated_tokens_total=9),
            1.0,
            None,
        ),
        (
            load(running_count=1, generated_tokens_total=9),
            load(running_count=1, generated_tokens_total=1),
            1.0,
            None,
        ),
        (
            load(running_count=1, generated_tokens_total=0),
            load(running_count=1, generated_tokens_total=9),
            0.0,
            None,
        ),
    ],
)
def test_speed_is_measured_only_while_busy(before, after, gap_s, expected):
    assert measured_tokens_per_s(before=before, after=after, gap_s=gap_s) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (load(ttft_s_sum=1.0, ttft_count=1), load(ttft_s_sum=1.5, ttft_count=3), 250),
        (load(ttft_s_sum=1.0, ttft_count=1), load(ttft_s_sum=1.0, ttft_count=1), None),
        (load(ttft_s_sum=9.0, ttft_count=9), load(ttft_s_sum=1.0, ttft_count=1), None),
        (load(), load(ttft_s_sum=1.0, ttft_count=1), None),
        (load(ttft_count=0), load(ttft_count=1), None),
    ],
)
def test_ttft_is_that_of_the_requests_in_between(before, after, expected):
    assert mean_ttft_ms(before=before, after=after) == expected
