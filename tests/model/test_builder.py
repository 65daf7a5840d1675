import json
import subprocess
import sys

import numpy as np
import pytest

from nnlo.errors import ConfigError, ModelError
from nnlo.history import History
from nnlo.model import load_builder, zoo_names
from nnlo.model.builder import ModelBuilder
from nnlo.model.make import build_adapter, make_adapter
from nnlo.model.python_file import ModelFromPython

# Keras' variables have an __array__ of before NumPy 2
KNOWN = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
FULL = """
from sibling import WIDTH
def get_model(scale=2, shift=0):
    import sibling
    return ("model", scale * sibling.WIDTH + shift)
get_model.parameter_range = ["dimension"]
def get_name(): return "named"
def get_train(): return ["a.h5", "b.h5"]
def get_val(): return ["c.h5"]
def get_features(): return ("X", abs)
def get_labels(): return "Y"
def get_loss(): return "mse"
def repair(params):
    from sibling import WIDTH
    return {**params, "scale": WIDTH} if params["scale"] else None
def figure_of_merit(history): return 1 - history.values("val_auc")[-1]
"""


@pytest.fixture
def full(tmp_path):
    (tmp_path / "sibling.py").write_text("WIDTH = 21\n")
    (tmp_path / "full.py").write_text(FULL)
    yield tmp_path / "full.py"
    sys.modules.pop("sibling", None)


def test_python_file_tells_all_it_has(full):
    builder = load_builder(full, shift=1)
    assert builder.build_model() == ("model", 43)
    assert (builder.name, builder.loss, builder.labels) == ("named", "mse", "Y")
    assert builder.features == ("X", abs)
    assert builder.train_files() == ["a.h5", "b.h5"]
    assert builder.val_files() == ["c.h5"]
    assert builder.parameter_range == ["dimension"]


def test_python_file_repairs_parameters_and_rates_a_training(full):
    builder = load_builder(full)
    assert builder.parameter_names == ("scale", "shift")
    assert builder.repair({"scale": 3, "shift": 1}) == {"scale": 21, "shift": 1}
    assert builder.repair({"scale": 0, "shift": 1}) is None
    assert builder.figure_of_merit(History(epochs=[{"val_auc": 0.75}])) == 0.25


def test_arguments_that_take_any_name_are_no_parameters(tmp_path):
    (tmp_path / "any.py").write_text("def get_model(width, *more, depth=1, **rest): return 1\n")
    assert load_builder(tmp_path / "any.py").parameter_names == ("width", "depth")


def test_hook_must_be_a_function(tmp_path):
    (tmp_path / "odd.py").write_text("def get_model(): return 1\nrepair = {'width': 2}\n")
    with pytest.raises(ModelError, match=r"repair must be a function, got {'width': 2} in"):
        _ = load_builder(tmp_path / "odd.py").repair


def test_python_file_needs_get_model_alone(tmp_path):
    (tmp_path / "bare.py").write_text("def get_model(): return 1\n")
    builder = load_builder(tmp_path / "bare.py")
    assert (builder.name, builder.loss, builder.parameter_range) == ("bare", None, [])
    assert (builder.features, builder.labels) == ("features", "labels")
    assert builder.train_files() is None
    assert builder.val_files() is None
    assert builder.parameter_names == ()
    assert builder.repair is builder.figure_of_merit is None


def test_folder_of_the_file_does_not_stay_on_the_path(full):
    load_builder(full).build_model()
    assert str(full.parent) not in sys.path


def test_module_name_depends_on_the_text_alone(full, tmp_path):
    copy = tmp_path / "elsewhere" / "full.py"
    copy.parent.mkdir()
    copy.write_text(FULL)
    assert ModelFromPython(copy).module.__name__ == ModelFromPython(full).module.__name__


def test_classes_of_a_model_file_know_their_module(tmp_path):
    (tmp_path / "one.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\n"
        "def get_model(): return A()\n"
    )
    model = load_builder(tmp_path / "one.py").build_model()
    assert sys.modules[type(model).__module__].A is type(model)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("x = 1", ModelError, r"must define get_model\(\), got none in .*user.py"),
        ("import no_such_thing", ModelError, r"got ModuleNotFoundError.*user.py"),
        ("def get_model(", ModelError, "got SyntaxError"),
        ("def get_model(width=1): pass", ConfigError, r"depth.*it takes \(width=1\)"),
    ],
)
def test_faults_of_a_model_file_name_it(tmp_path, text, error, says):
    (tmp_path / "user.py").write_text(text)
    with pytest.raises(error, match=says):
        load_builder(tmp_path / "user.py", depth=2).build_model()


def test_unknown_model_lists_zoo_and_endings():
    assert {"cifar10", "digits", "mnist", "mnist_torch"} <= set(zoo_names())
    with pytest.raises(ConfigError, match=r"cifar10, .*digits, .* or a .py, .json or .keras file"):
        load_builder("mnits")
    with pytest.raises(ModelError, match=r"must exist, got nothing.py"):
        load_builder("nothing.py")


@pytest.mark.filterwarnings(KNOWN)
def test_json_takes_weights_and_no_hyper_parameters(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    file, weights = tmp_path / "net.json", tmp_path / "net.weights.h5"
    file.write_text(json.dumps(json.loads(model.to_json()), indent=1))
    model.set_weights([np.ones((3, 2)), np.ones(2)])
    model.save_weights(weights)
    found = load_builder(file, weights=weights).build_model().get_weights()
    assert all((one == 1).all() for one in found)
    assert load_builder(file).build_model().count_params() == 8
    with pytest.raises(ConfigError, match="dropout for"):
        load_builder(file, dropout=0.5)
    with pytest.raises(ModelError, match="must exist"):
        load_builder(file, weights="absent.h5")


@pytest.mark.parametrize("text", ["", "{}", '{"class_name": "Sequential", "config": 3}'])
def test_damaged_json_is_an_error_that_names_it(tmp_path, text):
    pytest.importorskip("keras")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ModelError, match=r"output of model.to_json\(\).*bad.json"):
        load_builder(tmp_path / "bad.json").build_model()


def test_damaged_keras_file_is_an_error_that_names_it(tmp_path):
    pytest.importorskip("keras")
    (tmp_path / "bad.keras").write_text("no zip file")
    with pytest.raises(ModelError, match=r"written by model.save, got .*bad.keras"):
        load_builder(tmp_path / "bad.keras").build_model()


class Network(ModelBuilder):
    def build_model(self):
        import torch

        return torch.nn.Linear(3, 2)


def test_other_builders_have_no_say_in_a_search():
    assert (Network().parameter_range, Network().parameter_names) == ([], ())
    assert Network().repair is Network().figure_of_merit is None


def test_equal_seeds_give_equal_first_weights():
    pytest.importorskip("torch")
    vectors = []
    for seed in (3, 3, 4):
        adapter = build_adapter(Network(), "mse", seed=seed)
        vectors.append(np.empty(8, np.float32))
        adapter.get_flat(vectors[-1])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert (vectors[0] != vectors[2]).any()


def test_loss_must_come_from_somewhere():
    with pytest.raises(ConfigError, match="a loss must be given for the model Network"):
        build_adapter(Network())


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="must return a Keras 3 model or a torch module, got str"):
        make_adapter("mnist", "mse")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import nnlo.model", "keras torch tensorflow jax mpi4py"),
        ("from nnlo.model import *; load_builder('mnist_torch').build_model()", "keras"),
        ("from nnlo.model import *; load_builder('mnist')", "keras torch"),
    ],
)
def test_backends_are_imported_on_use(code, absent):
    pytest.importorskip("torch")
    check = f"{code}\nimport sys; assert not set(sys.modules) & set({absent!r}.split())"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_another_of_the_same_model_shares_nothing_with_it(tmp_path):
    file = tmp_path / "shared.py"
    file.write_text(
        "BASE = []\ndef get_model(width=1):\n    BASE.append(width)\n    return BASE\n"
    )
    builder = ModelFromPython(file)
    assert builder.build_model() == [1]
    file.write_text("raise ValueError('half written')")
    assert [builder.having(width=n).build_model() for n in (2, 3)] == [[2], [3]]
