"""What docs/data.md shows works."""

import re
from pathlib import Path

import numpy as np

from nnlo.cli.getdata import main

GUIDE = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()


def test_commands_and_code_of_the_guide_run(tmp_path, monkeypatch, capsys, mnist_npz):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist.npz").write_bytes(mnist_npz.read_bytes())
    for command in re.findall(r"^GetData .*$", GUIDE, re.MULTILINE):
        assert main(command.split()[1:]) == 0
    names = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(code, names)
    assert "(100, 8, 8, 1) (100, 10)" in capsys.readouterr().out
    np.savetxt("a.csv", np.arange(24.0).reshape(6, 4), delimiter=",")
    for kind, files, n in (("Tables", ["a.csv"], 6), ("Toy", [], 5000)):
        data = names[kind](4)
        data.set_files(files)
        assert data.n_samples == sum(len(y) for _, y in data.epoch(1)) == n


def test_override_in_the_guide_keeps_each_worker_to_its_part(write_files):
    names = {}
    exec(
        "from nnlo.data import H5Data\n"
        + re.findall(r"class Mirrored.*?\n```", GUIDE, re.DOTALL)[0][:-3],
        names,
    )
    data = names["Mirrored"](4)
    data.set_files(write_files([30, 40]))
    data.set_shard(1, 5)
    assert sum(len(y) for _, y in data.epoch(0)) == 14
