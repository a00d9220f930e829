"""`policy="auto"` from the cache and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import parse
from lowering import BOTH, REAL, kept, squared

from torch2trt_onnx import ErrorLimit, convert
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import InputError


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path):
        onnx.save(squared(), tmp_path / "model.onnx")
        np.savez(tmp_path / "calib.npz", x=REAL)
        return tmp_path

    def entries(self, folder, **asked):
        """How many there are once this is converted."""
        convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", **asked)
        return len([path for path in (folder / "cache").iterdir() if not path.name.startswith(".")])

    def test_all_that_says_what_is_measured_is_part_of_the_key(self, folder):
        file = folder / "calib.npz"
        ones = np.ones((2, 4), np.float32)
        asked = [
            {},
            {"calibration": False},
            {"calibration": file},
            {"calibration": [{"x": ones}]},
            {"calibration": [{"x": ones * 2}]},
            {"calibration": [{"x": ones}, {"x": ones}]},
            {"calibration": [torch.ones(2, 4)]},
            {"max_error": 1e-2},
            {"max_error": 1e-3},
            {"max_error": {"y": 1e-3}},
            {"max_error": ErrorLimit(1e-3, "cosine")},
            {"max_error": 1e-3, "calibration": file},
            {"policy": "auto"},
        ]
        assert [self.entries(folder, **each) for each in asked] == list(range(1, len(asked) + 1))
        assert {self.entries(folder, **each) for each in asked} == {len(asked)}

    def test_a_file_counts_by_what_is_in_it(self, folder):
        file = folder / "calib.npz"
        assert self.entries(folder, calibration=file) == 1
        before = convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", calibration=file)
        np.savez(file, x=REAL / 400)
        assert self.entries(folder, calibration=file) == 2
        after = convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", calibration=file)
        assert (set(kept(before)), set(kept(after))) == ({"CalibratedRange"}, set())
        (folder / "several").mkdir()
        np.savez(folder / "several" / "a.npz", x=REAL / 400)
        assert self.entries(folder, calibration=folder / "several") == 3
        np.savez(folder / "several" / "b.npz", x=REAL)
        assert self.entries(folder, calibration=folder / "several") == 4

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ({"calibration": iter([{"x": REAL}])}, "list_iterator"),
            ({"calibration": ({"x": REAL} for _ in range(2))}, "generator"),
            ({"max_error": ErrorLimit(1e-3, lambda a, b: 0)}, "function"),
            ({"max_error": {"y": ErrorLimit(1e-3, lambda a, b: 0)}}, "function"),
        ],
        ids=["an iterator", "a generator", "a function", "a function for one output"],
    )
    def test_what_can_do_something_else_tomorrow_is_an_error(self, folder, given, kind):
        with pytest.raises(InputError, match=f"a cache cannot tell one {kind} from another"):
            self.entries(folder, **given)

    def test_bf16_numbers_count_by_their_values(self, folder):
        data = np.ones((2, 4), np.float32).astype(ml_dtypes.bfloat16)
        assert self.entries(folder, calibration=[{"x": data}]) == 1


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        onnx.save(squared(), "model.onnx")
        np.savez("calib.npz", x=REAL)
        Path("data").mkdir()
        np.savez("data/a.npz", x=REAL)
        return "model.onnx"

    def command(self, *words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def planned(self, *words):
        return json.loads(self.command("plan", *words, "-p", "fp32,fp16", "--json").stdout)

    def converted(self, *words):
        done = self.command("convert", *words, "-p", "fp32,fp16", "--backend", "none", "-o", "out")
        return done, json.loads(Path("out/report.json").read_text()) if done.exit_code in (0, 4) else {}

    def test_plan_and_convert_decide_alike(self, model):
        asked = {
            "by default": ([], {}, "1 random sample"),
            "on a file": (["--calibration", "calib.npz"], {"CalibratedRange": 2}, "1 sample of calib.npz"),
            "on a folder": (["--calibration", "data"], {"CalibratedRange": 2}, "1 sample of data"),
            "on nothing": (["--no-calibration"], {}, ""),
        }
        for flags, rules, data in asked.values():
            plan = self.planned(model, *flags)
            done, report = self.converted(model, *flags)
            assert done.exit_code == 0, done.output
            for found in (plan, report):
                by = [node["kept_by"] for node in found["nodes"] if node["kept_by"]]
                assert ({rule: by.count(rule) for rule in by}, found["data"]) == (rules, data)
            precisions = {node["name"]: node["precision"] for node in report["nodes"]}
            assert {n["name"]: n["precision"] for n in plan["nodes"]}.items() <= precisions.items()

    def test_the_tables_name_what_was_kept_and_what_it_was_measured_on(self, model):
        done, _ = self.converted(model, "--calibration", "calib.npz")
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert "measured on 1 sample of calib.npz" in lines
        assert "kept in fp32 2 by CalibratedRange: Mul 'Mul_s', Div 'Div_c'" in lines
        assert any("Mul_s Mul fp32 it makes 's', which reaches 160000" in line for line in lines)
        assert "kept in fp32" in self.command("inspect", "out").stdout
        table = self.command("plan", model, "-p", "fp32,fp16", "--calibration", "calib.npz").stdout
        assert "measured on 1 sample of calib.npz" in table and "which reaches 160000" in table

    def test_many_that_were_kept_are_counted(self, model):
        nodes = "  ".join(f"a{i} = Exp({f'a{i - 1}' if i else 'x'})  b{i} = Neg(a{i})" for i in range(7)).replace(
            "Exp", "Sin"
        )
        onnx.save(parse(f"g (float[4] x) => (float[4] y) {{ {nodes}  y = Sigmoid(b6) }}"), "many.onnx")
        done, _ = self.converted("many.onnx")
        assert (
            "7 by OperatorRisk: Sin 'Sin_a0', Sin 'Sin_a1', Sin 'Sin_a2', Sin 'Sin_a3', Sin 'Sin_a4', and 2 more"
            in " ".join(done.stdout.split())
        )

    def test_a_policy(self, model):
        done, _ = self.converted(model, "--policy", "source")
        assert done.exit_code == 1 and "not one node of the model runs in it" in done.stderr
        done, _ = self.converted(model, "--policy", "auto")
        assert done.exit_code == 0
        assert self.command("plan", model, "-p", "fp32", "--policy", "auto").exit_code == 1
        assert self.command("plan", model, "--policy", "fast").exit_code == 2

    def test_a_budget(self, model):
        done, report = self.converted(model, "--max-error", "1e-9", "--max-error", "y:cosine:1e-3")
        assert done.exit_code == 0, done.output
        assert report["trade"]["limits"] == {"y": {"limit": 1e-3, "metric": "cosine"}}
        assert "nodes kept in fp32 for max_error, found in" in done.stdout
        plan = self.planned(model, "--max-error", "2e-4")
        assert plan["trade"]["limits"] == {"y": {"limit": 2e-4, "metric": "relative"}}
        assert (
            plan["trade"]["kept"].keys() == {n["name"] for n in plan["nodes"] if n["kept_by"] == "OverBudget"} != set()
        )
        assert "for max_error" in self.command("plan", model, "-p", "fp32,fp16", "--max-error", "2e-4").stdout

    @pytest.mark.parametrize(
        ("flags", "code", "words"),
        [
            (["--calibration", "calib.npz", "--no-calibration"], 2, "exclude each other"),
            (["--calibration", "nowhere.npz"], 1, "there is no such file of calibration data"),
            (["--calibration", "model.onnx"], 1, "the calibration data cannot be read"),
            (["--max-error", "z:1e-3"], 1, "the model has no output 'z'"),
            (["--max-error", "small"], 1, "'small' is no limit of an error"),
            (["--max-error", "1e-3", "--max-error", "1e-2"], 1, "max_error was given twice"),
            (["--max-error", "1e-3", "--no-calibration"], 1, "max_error needs data"),
        ],
    )
    def test_what_is_wrong_is_one_error(self, model, flags, code, words):
        done, _ = self.converted(model, *flags)
        assert (done.exit_code, words in done.stderr, Path("out").exists()) == (code, True, False)
        plan = self.command("plan", model, "-p", "fp32,fp16", *flags)
        assert (plan.exit_code, words in plan.stderr) == (code, True)
