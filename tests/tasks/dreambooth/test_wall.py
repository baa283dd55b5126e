"""The wall shows every sample where its labels say, from the run's folder alone."""

import numpy as np
import pytest
from PIL import Image

from nora_studio.runs.runs import Run
from nora_studio.scoring.grid import GROUND
from nora_studio.sdxl.generate import save_image
from nora_studio.sdxl.recipes import Recipe
from nora_studio.tasks.dreambooth.previews import preview_files
from nora_studio.tasks.dreambooth.wall import LARGEST, MOST_ROWS, samples_of, write_walls

PROMPTS = ("a [V] mug", "a [V] mug in the snow")
METHODS = ("nora", "lora")


def colour(step: int, number: int, method: int) -> tuple[int, int, int]:
    return 40 + 2 * min(step, 105), 60 + 90 * number, 20 + 160 * method


def drawn_run(folder, method: int, steps) -> Run:
    """A run's folder with a picture of one colour for each step and prompt."""
    run = Run(folder / f"mug-{METHODS[method]}")
    for step in steps:
        for number, file in enumerate(preview_files(run, step, len(PROMPTS))):
            whose = METHODS[method] if step else None
            recipe = Recipe("tiny", PROMPTS[number], 0, 1, 5.0, 64, "0", method=whose)
            shade = colour(step, number, method if step else 0)
            save_image(Image.new("RGB", (64, 64), shade), file, recipe)
    return run


def place(file, shade: tuple[int, int, int]) -> tuple[int, int]:
    """Middle of the only area of a colour: (down, right)."""
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels == shade).all(axis=-1))
    assert len(rows) > 64 * 64, f"{shade} is nowhere"
    assert (rows.max() - rows.min() + 1) <= LARGEST, f"{shade} is in several places"
    return round(rows.mean()), round(columns.mean())


def test_a_wall_has_a_row_a_step_and_a_column_a_prompt(tmp_path):
    run = drawn_run(tmp_path, 0, (0, 2, 10))
    write_walls({"nora": run})
    wall = run.samples / "wall.png"
    places = [[place(wall, colour(step, n, 0)) for n in range(2)] for step in (0, 2, 10)]
    downs = [[down for down, _ in row] for row in places]
    rights = [[right for _, right in row] for row in places]
    assert all(row[0] == row[1] for row in downs)
    assert downs[0][0] < downs[1][0] < downs[2][0]  # the base first, then by step
    assert rights[0] == rights[1] == rights[2]
    assert rights[0][0] < rights[0][1]
    assert not (run.samples / "twins.png").exists()


def test_twins_hang_side_by_side_under_each_prompt_and_in_both_folders(tmp_path):
    runs = {name: drawn_run(tmp_path, number, (0, 2)) for number, name in enumerate(METHODS)}
    write_walls(runs)
    walls = [run.samples / "twins.png" for run in runs.values()]
    assert walls[0].read_bytes() == walls[1].read_bytes()
    shown = [place(walls[0], colour(2, n, method)) for n in range(2) for method in range(2)]
    assert len({down for down, _ in shown}) == 1
    rights = [right for _, right in shown]
    assert rights == sorted(rights)
    # Closer within a prompt than between two.
    assert rights[1] - rights[0] == rights[3] - rights[2] < rights[2] - rights[1]
    own = runs["lora"].samples / "wall.png"
    with pytest.raises(AssertionError, match="nowhere"):
        place(own, colour(2, 0, 0))
    place(own, colour(2, 0, 1))


def test_a_step_that_a_twin_has_not_reached_is_left_empty(tmp_path):
    runs = {"nora": drawn_run(tmp_path, 0, (0, 2)), "lora": drawn_run(tmp_path, 1, (0, 2, 4))}
    write_walls(runs)
    wall = runs["nora"].samples / "twins.png"
    assert place(wall, colour(4, 0, 1))[0] > place(wall, colour(2, 0, 0))[0]


def test_of_many_steps_a_wall_shows_some_evenly_and_the_last(tmp_path):
    run = drawn_run(tmp_path, 0, range(101))
    write_walls({"nora": run})
    with Image.open(run.samples / "wall.png") as wall:
        assert (MOST_ROWS + 1) * LARGEST < wall.height < (MOST_ROWS + 3) * LARGEST
    place(run.samples / "wall.png", colour(100, 0, 0))


def test_a_wall_is_replaced_whole_and_the_same_samples_make_the_same_bytes(tmp_path):
    run = drawn_run(tmp_path, 0, (0, 2))
    write_walls({"nora": run})
    first = (run.samples / "wall.png").read_bytes()
    write_walls({"nora": run})
    assert (run.samples / "wall.png").read_bytes() == first
    drawn_run(tmp_path, 0, (4,))
    write_walls({"nora": run})
    assert (run.samples / "wall.png").read_bytes() != first
    names = {file.name for file in run.samples.iterdir()}
    assert names == {"wall.png"} | {
        f"{step}-0{n}.png" for step in ("base", "step-000002", "step-000004") for n in (1, 2)
    }


def test_a_walls_labels_are_the_prompts_and_steps_of_its_pictures(tmp_path):
    walls = set()
    for name, prompts, steps in (
        ("one", PROMPTS, (0, 2)),
        ("other prompt", ("a [V] mug", "a [V] cup"), (0, 2)),
        ("other step", PROMPTS, (0, 3)),
    ):
        run = Run(tmp_path / name)
        for row, step in enumerate(steps):
            for number, file in enumerate(preview_files(run, step, 2)):
                recipe = Recipe("tiny", prompts[number], 0, 1, 5.0, 64, "0")
                save_image(Image.new("RGB", (64, 64), colour(row, number, 0)), file, recipe)
        write_walls({"nora": run})
        walls.add((run.samples / "wall.png").read_bytes())
    assert len(walls) == 3


def test_samples_are_found_by_step_and_number_and_nothing_else_is(tmp_path):
    run = drawn_run(tmp_path, 0, (0, 2, 1_000_000))
    for name in ("wall.png", "step-000003.png", "step-1-01.png", "notes.png"):
        Image.new("RGB", (8, 8), GROUND).save(run.samples / name)
    found = samples_of(run)
    assert list(found) == [0, 2, 1_000_000]
    assert [list(row) for row in found.values()] == [[1, 2]] * 3
    assert found[2][1].name == "step-000002-01.png"


def test_a_run_without_samples_gets_no_wall(tmp_path):
    run = Run.create(tmp_path / "mug-nora", "")
    write_walls({"nora": run})
    assert list(run.samples.iterdir()) == []
