"""A pruned model as the folder of a run, which can be asked, trained on and pruned further."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.prune import apply_masks, masks, pruned_share
from nnlo.bayes.sparse import export_sparse
from nnlo.cli.config_file import pairs
from nnlo.cli.past_run import PastRun
from nnlo.cli.rundir import RunDirectory, weight_names
from nnlo.files import write_atomic, write_text
from nnlo.model import ModelBuilder, zoo_names
from nnlo.model.adapter import ModelAdapter, Vector
from nnlo.mpi.frame import pack_arrays

MODULE = '''"""A pruned model, from PruneDriver: masks and weights are in {file} beside it."""

from pathlib import Path

{imports}

ORIGIN = load_builder({spec!r}, **{numbers!r})


def get_model():
{body}


def get_loss():
    return ORIGIN.loss


def get_features():
    return ORIGIN.features


def get_labels():
    return ORIGIN.labels
'''
TORCH = (
    "from nnlo.bayes.torch_masked import read_masked\nfrom nnlo.model import load_builder",
    '    return read_masked(ORIGIN.build_model(), Path(__file__).with_name("model.pt"))',
)
KERAS = (
    "from nnlo.model import load_builder",
    '    return load_builder(Path(__file__).with_name("model.keras")).build_model()',
)


def write_pruned(
    run: PastRun,
    adapter: ModelAdapter,
    vector: Vector,
    folder: Path,
    *,
    fraction: float,
    per_layer: bool,
) -> None:
    """Write model, weights.npz, sparse.npz and the config.json of a run to ``folder``.

    adapter: of the run's model with masks; it has the pruned weights afterwards. vector: the
    weights ``[T | S]`` before. Raises OSError and ConfigError where the disk does not take it.
    """
    gaussians = find_gaussians(adapter.manifest)
    pruned = vector.copy()
    chosen = masks(gaussians, pruned, fraction=fraction, per_layer=per_layer)
    apply_masks(gaussians, pruned, chosen)
    adapter.set_flat(pruned)
    file = adapter.save(folder / f"model{adapter.suffix}")[0]
    if not _is_whole(run.builder, file):
        file = _write_module(run, file)
    options = replace(run.options, model=str(file.resolve()), param=(), restore=None)
    loss = run.options.loss or run.builder.loss
    options = replace(options, loss=loss, **_names(run), **_data(run, folder))
    about = {"pruned": pruned_share(gaussians, pruned), "run": str(run.path.resolve())}
    RunDirectory.at(folder).write_config(options, about)
    read = PastRun.open(folder).build().manifest  # where Keras may call its layers otherwise
    arrays = dict(zip(weight_names(read), read.split(pruned), strict=True))
    write_atomic(folder / "weights.npz", lambda stream: stream.write(pack_arrays(arrays)))
    export_sparse(folder / "sparse.npz", adapter.manifest, pruned)


def _is_whole(builder: ModelBuilder, file: Path) -> bool:
    """Whether ``file`` says all of the model: a .keras file holds no functions of the user's."""
    is_plain = isinstance(builder.features, str) and isinstance(builder.labels, str)
    return file.suffix == ".keras" and is_plain


def _write_module(run: PastRun, file: Path) -> Path:
    """Write ``model.py``, which builds the run's model and reads ``file``."""
    spec = run.options.model
    if spec not in zoo_names():
        spec = str(Path(spec).resolve())
    imports, body = TORCH if file.suffix == ".pt" else KERAS
    numbers = pairs("--param", run.options.param)
    text = MODULE.format(file=file.name, imports=imports, body=body, spec=spec, numbers=numbers)
    path = file.with_name("model.py")
    write_text(path, text)
    return path


def _names(run: PastRun) -> dict[str, Any]:
    """The data sets that the model names, where the pruned one would not."""
    options, builder = run.options, run.builder
    names = {
        "features_name": options.features_name or builder.features,
        "labels_name": options.labels_name or builder.labels,
    }
    return {option: name for option, name in names.items() if isinstance(name, str)}


def _data(run: PastRun, folder: Path) -> dict[str, Any]:
    """The lists of the run; written to ``folder`` where the data are the model's own."""
    options = run.options
    given = {"train_data": options.train_data, "val_data": options.val_data}
    if options.train_data is None:
        for name, files in zip(given, run.lists(), strict=True):
            if given[name] is None and files:
                path = folder / f"{name}.list"
                write_text(path, "".join(f"{_absolute(one)}\n" for one in files))
                given[name] = str(path)
    return {name: None if one is None else _absolute(one) for name, one in given.items()}


def _absolute(name: str) -> str:
    return name if "://" in name else str(Path(name).resolve())
