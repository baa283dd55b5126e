"""The rule of turns for trainings, image jobs and password checks."""

from nora_studio.app.server.round_robin_queue import RoundRobinQueue


def test_visitors_take_turns_in_any_order_of_arrival():
    queue: RoundRobinQueue[str] = RoundRobinQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    assert queue.order() == ["a1", "b1", "c1", "a2", "b2", "a3"]
    queue.serve("a", "a1")
    queue.put("d", "d1")
    assert queue.order() == ["b1", "c1", "d1", "a2", "b2", "a3"]
    queue.remove("b", "b1")
    assert queue.order() == ["b2", "c1", "d1", "a2", "a3"]
    queue.count_turn("b")
    assert queue.order() == ["c1", "d1", "a2", "b2", "a3"]
