"""The checklist a supervisor keeps."""

import asyncio

from serve_app.embedded.board import Board


async def test_steps_are_timed_and_watchers_woken() -> None:
    board = Board()
    changed = asyncio.create_task(board.changed())
    await asyncio.sleep(0)
    board.begin("postgres")
    await asyncio.wait_for(changed, 1)
    running = {step.key: step for step in board.steps()}["postgres"]
    assert running.state == "started"
    assert running.seconds is not None
    board.end("postgres", seconds=1.5)
    board.begin("a stage of tomorrow")
    board.fail_running()
    steps = {step.key: (step.state, step.seconds) for step in board.steps()}
    assert steps["postgres"] == ("done", 1.5)
    assert steps["a stage of tomorrow"][0] == "failed"
    assert steps["valkey"] == ("waiting", None)


async def test_the_time_to_ready_stands_still() -> None:
    board = Board()
    board.enter("ready")
    took = board.seconds
    await asyncio.sleep(0.01)
    assert board.seconds == took
    board.enter("failed", reason="why", mend="how")
    assert (board.phase, board.reason, board.mend) == ("failed", "why", "how")
