from routing.stickiness import Sessions

ONE, OTHER_KEY = ("key 1", "chat"), ("key 2", "chat")


def test_session_is_remembered_for_the_window_and_by_key():
    sessions = Sessions()
    sessions.note(ONE, deployment_id="a", now_s=10.0)

    assert sessions.served_by(ONE, now_s=69.9, window_s=60.0) == "a"
    assert sessions.served_by(ONE, now_s=70.0, window_s=60.0) is None
    assert sessions.served_by(ONE, now_s=10.0, window_s=0.0) is None
    assert sessions.served_by(OTHER_KEY, now_s=10.0, window_s=60.0) is None


def test_each_request_begins_the_window_anew():
    sessions = Sessions()
    sessions.note(ONE, deployment_id="a", now_s=0.0)
    sessions.note(ONE, deployment_id="b", now_s=50.0)

    assert sessions.served_by(ONE, now_s=100.0, window_s=60.0) == "b"


def test_sessions_are_bounded_and_the_stalest_goes_first():
    sessions = Sessions(sessions_max=2)
    for number, name in enumerate(("a", "b", "a", "c")):
        sessions.note(("key", name), deployment_id="d", now_s=float(number))

    kept = [sessions.served_by(("key", name), now_s=4.0, window_s=60.0) for name in "abc"]
    assert kept == ["d", None, "d"]
