"""The root of a run, made of the parts that rank 0 has."""

from collections.abc import Callable, Sequence
from functools import partial

from nnlo.checkpoint import CheckpointStore
from nnlo.model.kl_schedule import plan_kl
from nnlo.mpi.evaluate import Background, evaluate
from nnlo.mpi.parts import Parts
from nnlo.mpi.plan import Listener, RootPlan
from nnlo.mpi.root import Root
from nnlo.mpi.saving import Saver
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.setup import identity
from nnlo.mpi.stopping import EarlyStopping, Target, larger_is_better, metric_name


def make_root(parts: Parts, listeners: Sequence[Listener]) -> Root:
    """The observer of rank 0. Raises what is to be said of the settings before the start."""
    settings, prepared = parts.job.settings, parts.prepared
    n_samples = parts.job.data.n_samples
    names = prepared.adapter.metric_names
    # Where this rank trains as well, its one model can't be validated at the same time.
    background = Background(parts.rank in parts.topology.trainers, parts.spans)
    known = [*names, *(f"val_{name}" for name in names if prepared.validation)]
    monitor = settings.monitor
    if monitor != RunSettings.monitor:  # the default is unused without validation
        monitor = metric_name(monitor, known)
    elif "val_nll" in known:  # not of a model with its own train_step
        monitor = "val_nll"  # the loss of an epoch depends on how much the divergence weighs in it
    stoppers: list[EarlyStopping | Target] = []
    if settings.early_stopping:
        stoppers.append(EarlyStopping.parse(settings.early_stopping, known))
    if settings.target_metric:
        stoppers.append(Target.parse(settings.target_metric, known))
    plan = RootPlan(
        n_samples=n_samples,
        n_epochs=settings.num_epochs,
        metric_names=names,
        validate=_validator(parts, background),
        validate_every=settings.validate_every,
        monitor=monitor,
        larger_is_better=larger_is_better(monitor),
        checkpoint_every=settings.checkpoint_interval,
        stoppers=tuple(stoppers),
        listeners=tuple(listeners),
        max_refused=settings.max_refused,
        number=parts.topology.number,
        kl=plan_kl(settings.kl_schedule, prepared.adapter, n_samples),
    )
    return Root(plan, background, _saver(parts, background))


def _validator(parts: Parts, background: Background) -> Callable[..., dict[str, float]] | None:
    recalibrate = parts.recalibration  # raises what there is to say before the start
    if parts.prepared.validation is None:
        return None
    return partial(
        evaluate,
        parts.prepared.adapter,
        parts.prepared.validation,
        is_cancelled=background.is_cancelled,
        recalibrate=recalibrate,
    )


def _saver(parts: Parts, background: Background) -> Saver | None:
    base = parts.job.settings.checkpoint
    if base is None:
        return None
    about = identity(parts.job, parts.prepared.adapter)
    about["topology"] = parts.topology.shape
    store = CheckpointStore(base)
    store.prepare()
    return Saver(store, background, about)
