"""Adds up what several processes have done."""

from collections.abc import Iterable

from service.protocol.counts import BatchStatistics, Computation, Duration, InferenceStatistics, ModelStatistics


def added(counts: Iterable[ModelStatistics]) -> ModelStatistics:
    """The sum of the counts of one version in several processes.

    Raises `ValueError` if there are none, or they are of different versions.
    """
    parts = list(counts)
    named = {(part.name, part.version) for part in parts}
    if len(named) != 1:
        raise ValueError(f"only counts of one version can be added, got those of {sorted(named)}")
    sizes = sorted({batch.batch_size for part in parts for batch in part.batch_stats})
    return ModelStatistics(
        name=parts[0].name,
        version=parts[0].version,
        last_inference=max(part.last_inference for part in parts),
        inference_count=sum(part.inference_count for part in parts),
        execution_count=sum(part.execution_count for part in parts),
        inference_stats=InferenceStatistics(**_sum(part.inference_stats for part in parts)),
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                **_sum(batch for part in parts for batch in part.batch_stats if batch.batch_size == size),
            )
            for size in sizes
        ],
    )


def _sum(parts: Iterable[Computation]) -> dict[str, Duration]:
    """Every duration that they have, added up."""
    total: dict[str, Duration] = {}
    for part in parts:
        for name, value in part:
            if isinstance(value, Duration):
                before = total.get(name, Duration())
                total[name] = Duration(count=before.count + value.count, ns=before.ns + value.ns)
    return total
