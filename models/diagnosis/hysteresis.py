"""A finding is believed when most of the last windows agree."""

from collections.abc import Sequence

from models.diagnosis.finding import Diagnosis, Finding


def confirmed(recent: Sequence[Diagnosis], needed: int = 3, of: int = 5) -> list[Finding]:
    """The newest version of each (rule, part) that was found in at least `needed` of the last `of` windows.

    `recent` is in the order of time, the newest last. Windows in which a rule could not be judged do not count for it.
    """
    believed: dict[tuple[str, str], Finding] = {}
    for rule in dict.fromkeys(finding.rule for diagnosis in recent for finding in diagnosis.findings):
        judged = [diagnosis for diagnosis in recent if all(missing.rule != rule for missing in diagnosis.unjudged)]
        found: dict[str, list[Finding]] = {}
        for diagnosis in judged[-of:]:
            for finding in diagnosis.findings:
                if finding.rule == rule:
                    found.setdefault(finding.part, []).append(finding)
        believed |= {(rule, part): times[-1] for part, times in found.items() if len(times) >= needed}
    return list(believed.values())
