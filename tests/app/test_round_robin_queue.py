"""One rule for whose turn is next: of trainings, drawings and password checks alike."""

from nora_studio.app.server.round_robin_queue import RoundRobinQueue


def test_visitors_are_served_in_turns_whoever_came_first():
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
