"""A fidelity result as sentences and as a table."""

from nora_studio.scoring.fidelity import PROMPT_SCORE, Fidelity, FidelityPoint, Score
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT


def point_name(point: FidelityPoint) -> str:
    """Return a point's name, such as "step 400 at strength 0.8"."""
    return f"step {point.step:,} at strength {point.strength:g}"


def judges_of(result: Fidelity) -> str:
    """Return the judges' names, such as "CLIP embedded and DINO facebook/dino-vits16"."""
    return f"CLIP {result.clip}" + (f" and DINO {result.dino}" if result.dino else "")


def percent(share: float) -> str:
    """Format a share in whole percent, clamped to 0 and 100."""
    return f"{100 * min(1.0, max(0.0, share)):.0f}%"


def advice(result: Fidelity, run_name: str) -> str:
    """Return which point of a run to use, and how certain that is, in two or three sentences."""
    found = result.recommended.get(run_name)
    if found is None:
        return f"No recommendation: {result.unclear.get(run_name, 'no point is measured yet.')}"
    point = result.points[found.point]
    last = ", the final adapter" if point.is_final else ""
    sentences = [
        f"Use step {point.step:,}{last}, at strength {point.strength:g}. "
        f"It goes {percent(found.subject_share)} of the way from the base to the real photos and "
        f"keeps {percent(found.prompt_share)} of the base's attention to the prompt.",
        _certainty(result, run_name),
    ]
    if point.copies > 0:
        sentences.append(
            f"{percent(point.copies)} of its images are nearer to one photo than any two photos "
            "are to each other: it may be copying. Use a lower strength or fewer steps."
        )
    return " ".join(sentence for sentence in sentences if sentence)


def _certainty(result: Fidelity, run_name: str) -> str:
    found = result.recommended[run_name]
    units = len(result.points[found.point].scores[PROMPT_SCORE].units)
    unit = "prompts" if len(result.prompts) > 1 else "seeds"
    if units < 2:
        return "A single image is not enough: use more prompts."
    others = [point_name(result.points[number]) for number in found.rivals]
    rivals = f"; otherwise {' or '.join(others)}" if others else ""
    certainty = f"With other {unit} it would be chosen {percent(found.wins)} of the time"
    is_few = units < UNITS_FOR_A_VERDICT
    few = f" {units} {unit} are few: take this as a first estimate." if is_few else ""
    return f"{certainty}{rivals}.{few}"


def interval(score: Score) -> str:
    """Format a mean with the ends of its interval."""
    if score.low is None or score.high is None:
        return f"{score.mean:.3f}"
    return f"{score.mean:.3f} ({score.low:.3f} to {score.high:.3f})"


def fidelity_table(result: Fidelity) -> list[list[str]]:
    """Return rows: headings, the base, each point by run, step and strength, and real photos."""
    names = list(result.base.scores)
    rows = [["", "Step", "Strength", *names, "Nearest photo", ""]]
    rows.append(["base", "", "", *(interval(s) for s in result.base.scores.values()), "", ""])
    best = {found.point for found in result.recommended.values()}
    order = sorted(
        range(len(result.points)),
        key=lambda n: (result.points[n].run, result.points[n].step, result.points[n].strength),
    )
    for number in order:
        point = result.points[number]
        note = "recommended" if number in best else "on the front" if number in result.front else ""
        scores = [interval(score) for score in point.scores.values()]
        where = [point.run, f"{point.step:,}", f"{point.strength:g}"]
        rows.append([*where, *scores, f"{point.nearest:.3f}", note])
    real = [f"{Score(result.real[name]).mean:.3f}" for name in names]
    rows.append(["real photos", "", "", *real, "", ""])
    return rows
