"""The form of an experiment: arms and ramps in lines that a person writes."""

import re
from typing import Any

from django import forms

from clusters.forms import InventoryForm
from clusters.models import Experiment

_DURATION = re.compile(r"(\d{1,9})\s*(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_STEP = re.compile(r"(\d{1,9}\s*[smhd])\s+(\d{1,9})\s*%")
_ARM = re.compile(r"(\S.*?)[\s:=]+(\d{1,9})\s*%?")
PERMILLE_PER_POINT = 10


def arms_of(text: str) -> list[dict[str, Any]]:
    """Lines of a model and its weight; raises ValidationError with the line that is none."""
    arms = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _ARM.fullmatch(line)
        if found is None:
            raise forms.ValidationError(
                f"{line[:80]!r} is no arm: write a model's name, a space and its weight, as in llama-3-8b 90"
            )
        arms.append({"model": found[1], "weight": int(found[2])})
    return arms


def arms_text(arms: list[dict[str, Any]]) -> str:
    return "\n".join(f"{arm['model']} {arm['weight']}" for arm in arms)


def ramp_of(text: str) -> tuple[int, list[dict[str, int]]]:
    """A duration, or lines of a time and a percentage: (ramp_s, ramp_steps)."""
    text = text.strip()
    if not text:
        return 0, []
    if (whole := _DURATION.fullmatch(text)) is not None:
        return int(whole[1]) * _SECONDS[whole[2]], []
    steps = []
    for line in filter(None, map(str.strip, re.split(r"[,\n]", text))):
        found = _STEP.fullmatch(line)
        if found is None:
            raise forms.ValidationError(
                f"{line[:80]!r} is no step: write how long after the start and how many percent, as in "
                "30m 25%; or one duration alone, as in 2h"
            )
        steps.append({"after_s": _seconds(found[1]), "percent": int(found[2])})
    return 0, steps


def ramp_text(*, ramp_s: int, steps: list[dict[str, int]]) -> str:
    if steps:
        return "\n".join(f"{duration_text(step['after_s'])} {step['percent']}%" for step in steps)
    return duration_text(ramp_s) if ramp_s else ""


def duration_text(seconds: int) -> str:
    """In the largest unit that is whole: 5400 s are 90m."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


class ExperimentForm(InventoryForm):
    """An experiment; it is a draft until it is started from the list."""

    arms_lines = forms.CharField(
        label="Arms",
        widget=forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"}),
        help_text=(
            "One a line: a model's name and its weight, for example “llama-3-8b 90”. The first is the "
            "control, which the others are compared with. Weights are relative: 90 and 10 are nine to one."
        ),
    )
    ramp = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text=(
            "How the other arms grow to their shares. Empty: at once. One duration, such as “2h”: evenly "
            "over it. Lines such as “0m 5%”, “30m 25%”, “2h 100%”: in steps."
        ),
    )
    error_increase_points = forms.DecimalField(
        label="More errors, in points",
        min_value=0,
        max_value=100,
        decimal_places=1,
        initial=5,
        help_text="An arm that provably fails so much more often than the control stops it all. 0: never.",
    )

    class Meta:
        model = Experiment
        fields = ("name", "route", "latency_increase_percent", "samples_min")
        labels = {
            "latency_increase_percent": "Later first token, percent",
            "samples_min": "Answers of each arm first",
        }
        help_texts = {
            "name": "Stands with each attempt in the ledger and in reports. Kept once it was started.",
            "route": "Callers of this model name are shared out. One experiment runs on a route at a time.",
            "latency_increase_percent": (
                "An arm whose first token provably comes so much later than the control's (geometric mean) "
                "stops the experiment. 0: never."
            ),
            "samples_min": "At least 30: below, errors say too little.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        row = self.instance
        if row.arms:
            self.initial["arms_lines"] = arms_text(row.arms)
            self.initial["ramp"] = ramp_text(ramp_s=row.ramp_s, steps=row.ramp_steps)
            self.initial["error_increase_points"] = row.error_increase_permille / PERMILLE_PER_POINT

    def clean_arms_lines(self) -> list[dict[str, Any]]:
        return arms_of(self.cleaned_data["arms_lines"])

    def clean_ramp(self) -> tuple[int, list[dict[str, int]]]:
        return ramp_of(self.cleaned_data["ramp"])

    def _post_clean(self) -> None:
        data = self.cleaned_data
        if "arms_lines" in data:
            self.instance.arms = data["arms_lines"]
        if "ramp" in data:
            self.instance.ramp_s, self.instance.ramp_steps = data["ramp"]
        if data.get("error_increase_points") is not None:
            self.instance.error_increase_permille = int(data["error_increase_points"] * PERMILLE_PER_POINT)
        super()._post_clean()

    def add_error(self, field: str | None, error: Any) -> None:
        """The inventory knows the arms by their column's name."""
        super().add_error("arms_lines" if field == "arms" else field, error)


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    assert found is not None
    return int(found[1]) * _SECONDS[found[2]]
