"""What a user may give as calibration data, and what is said of what does not fit."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from torch2trt_onnx import Input
from torch2trt_onnx.calibration import samples
from torch2trt_onnx.errors import InputError
from torch2trt_onnx.precision import ElementType

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([1, 2], np.int64)


def inputs(a="float32", b="int64"):
    """`a` of 1 to 4 rows, and `b`."""
    a = Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(4, 3), name="a", dtype=a)
    return [a] if b is None else [a, Input((2,), name="b", dtype=b)]


@pytest.fixture
def read(tmp_path):
    """All samples of what is given, read twice; both times must be the same."""

    def read(given, wanted=None, **options):
        found = samples(given, wanted or inputs(), tmp_path / "spool", **options)
        first, second = list(found), list(found)
        for one, other in zip(first, second, strict=True):
            same([one], other)
        return first

    return read


def same(found, *expected):
    """Samples are what is expected, in type and shape too."""
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, array in other.items():
            np.testing.assert_array_equal(one[name], array, strict=True)


# --- forms


FORMS = {
    "a list of mappings": [{"a": A, "b": B}, {"b": 2 * B, "a": A[:1]}],
    "a list of sequences in the order of the inputs": [(A, B), [A[:1], 2 * B]],
    "tensors of PyTorch": [
        {"a": torch.tensor(A, requires_grad=True), "b": torch.tensor(B)},
        (torch.tensor(A[:1]), 2 * B),
    ],
    "nested lists of numbers": [{"a": A.tolist(), "b": [1, 2]}, {"a": A[:1].tolist(), "b": (2, 4)}],
}


@pytest.mark.parametrize("given", FORMS.values(), ids=FORMS)
def test_samples_may_be(given, read):
    same(read(given), {"a": A, "b": B}, {"a": A[:1], "b": 2 * B})


def test_one_mapping_is_one_sample(read):
    same(read({"a": A, "b": B}), {"a": A, "b": B})


def test_where_there_is_one_input_a_sample_may_be_an_array(read):
    alone = inputs(b=None)
    same(read([A, A[:1]], alone), {"a": A}, {"a": A[:1]})
    same(read(torch.tensor(A), alone), {"a": A})


def test_a_generator_is_read_once_and_kept_in_files(tmp_path):
    def numbers():
        for n in range(3):
            made.append(n)
            yield {"a": A + n, "b": B}

    made = []
    found = samples(numbers(), inputs(), tmp_path / "spool")
    assert made == []
    first = iter(found)
    same([next(first), next(first)], {"a": A, "b": B}, {"a": A + 1, "b": B})
    assert made == [0, 1], "no more is read than was asked for"
    same(list(found), *({"a": A + n, "b": B} for n in range(3)))
    same(list(found), *({"a": A + n, "b": B} for n in range(3)))
    assert made == [0, 1, 2]
    assert len(list((tmp_path / "spool").iterdir())) == 3


def test_names_that_are_parameters_of_numpy_are_kept(read):
    odd = [Input((2, 3), name=name, dtype="float32") for name in ("file", "args", "a/b:0")]
    sample = {"file": A, "args": A + 1, "a/b:0": A + 2}
    same(read(iter([sample]), odd), sample)


def test_a_loader_that_shuffles_gives_the_same_each_time(read):
    class Loader:
        def __iter__(self):
            return iter([{"a": np.random.default_rng().random((2, 3), np.float32), "b": B}])

    assert len(read(Loader())) == 1


def test_an_npz_file_is_one_sample_and_a_folder_has_one_in_each_in_the_order_of_their_names(tmp_path, read):
    folder = tmp_path / "data"
    folder.mkdir()
    for n in (2, 10, 1):
        np.savez(folder / f"{n:03}.npz", a=A + n, b=B)
    (folder / "notes.txt").write_text("not data")
    same(read(folder / "002.npz"), {"a": A + 2, "b": B})
    same(read(str(folder)), *({"a": A + n, "b": B} for n in (1, 2, 10)))


def test_a_scalar_comes_through_an_npz(tmp_path, read):
    np.savez(tmp_path / "s.npz", s=np.array(3, np.int64))
    same(read(tmp_path / "s.npz", [Input((), name="s", dtype="int64")]), {"s": np.array(3)})


def test_inputs_that_the_graph_has_lost_are_left_out(read):
    given = [{"a": A, "lost": B, "b": B}, (A, B + 7, B)]
    same(read(given, order=["a", "lost", "b"]), {"a": A, "b": B}, {"a": A, "b": B})
    same(read([{"a": A, "b": B}], order=["a", "lost", "b"]), {"a": A, "b": B})


# --- random ones


def test_without_data_they_are_drawn_as_the_inputs_say(read):
    ids = Input((2,), name="b", dtype="int64", value_range=(100, 200))
    found = read(None, [*inputs(b=None), ids], number=2)
    assert [s["a"].shape for s in found] == [(2, 3)] * 2
    assert found[0]["a"].dtype == np.float32
    assert not np.array_equal(found[0]["a"], found[1]["a"])
    assert all(100 <= n <= 200 for s in found for n in s["b"])


@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
def test_types_that_numpy_or_tensorrt_lacks_are_fed_as_fp32(kind, read):
    (sample,) = read(None, inputs(kind))
    assert sample["a"].dtype == np.float32
    rounded = sample["a"].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(sample["a"], rounded) == (kind == "bfloat16")


def test_an_example_stands_for_a_sample(read):
    example = Input((2,), name="b", dtype="int64", example=torch.tensor([5, 6]))
    (sample,) = read(None, [example])
    assert sample["b"].tolist() == [5, 6]


def test_the_values_of_a_shape_tensor_are_used(read):
    size = Input((2,), name="b", dtype="int64", min_values=(8, 8), opt_values=(32, 16), max_values=(64, 64))
    (sample,) = read(None, [size])
    assert sample["b"].tolist() == [32, 16]


def test_numpy_data_needs_no_torch():
    code = """
import sys, pathlib, numpy as np
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.calibration import samples
i = [Input((2,), name="a", dtype="float32")]
for given in (None, [{"a": np.ones(2, np.float32)}], iter([[np.ones(2)]])):
    assert len(list(samples(given, i, pathlib.Path(sys.argv[1])))) == 1
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, "/tmp"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


# --- what reports say


def test_reports_say_how_many_samples_there_are_and_where_they_come_from(tmp_path):
    np.savez(tmp_path / "0.npz", a=A, b=B)
    example = [Input((2,), name="b", example=torch.tensor([5, 6]), dtype="int64")]
    for given, wanted, options, words, is_real in (
        (None, inputs(), {}, "1 random sample", False),
        (None, inputs(), {"number": 3}, "3 random samples", False),
        (None, example, {}, "1 sample of the examples", False),
        ([(A, B)] * 2, inputs(), {}, "2 given samples", True),
        (iter([(A, B)]), inputs(), {}, "1 given sample", True),
        (tmp_path, inputs(), {}, f"1 sample of {tmp_path}", True),
    ):
        found = samples(given, wanted, tmp_path / "spool" / words, **options)
        list(found)
        assert (found.words, found.is_real) == (words, is_real)


# --- types


@pytest.mark.parametrize(
    ("given", "wanted", "held"),
    [
        ("float64", "float32", "float32"),
        ("float16", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float64", "bfloat16", "float32"),
        ("float32", "float64", "float32"),
        ("float16", "float16", "float16"),
        ("int32", "int64", "int64"),
        ("int64", "int32", "int32"),
        ("int64", "uint8", "uint8"),
        ("bool", "bool", "bool"),
    ],
)
def test_a_cast_that_keeps_the_values_is_made(given, wanted, held, read):
    (sample,) = read([{"a": np.ones((2, 3), given)}], inputs(wanted, b=None))
    assert sample["a"].dtype == held
    assert (sample["a"] == 1).all()


def test_bf16_is_rounded_as_the_binding_will(read):
    (sample,) = read([{"a": A / 3}], inputs("bfloat16", b=None))
    np.testing.assert_array_equal(sample["a"], (A / 3).astype(ml_dtypes.bfloat16).astype(np.float32), strict=True)
    (sample,) = read([torch.tensor(A / 3, dtype=torch.bfloat16)], inputs("bfloat16", b=None))
    np.testing.assert_array_equal(sample["a"], torch.tensor(A / 3).bfloat16().float().numpy(), strict=True)


def test_infinities_and_nan_are_data(read):
    a = np.array([[np.inf, -np.inf, np.nan]], np.float64)
    (sample,) = read([{"a": a}], inputs(b=None))
    np.testing.assert_array_equal(sample["a"], a.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("given", "wanted", "why"),
    [
        (np.ones((2, 3), np.int64), "float32", "that is no cast which keeps its values"),
        (np.ones((2, 3), np.uint8), "float32", "that is no cast which keeps its values"),
        (np.ones((2, 3), np.float32), "int64", "that is no cast which keeps its values"),
        (np.ones((2, 3), np.float32), "float16", "that is no cast which keeps its values"),
        (np.ones((2, 3), np.int64), "bool", "that is no cast which keeps its values"),
        (np.full((2, 3), 2**40), "int32", "its values do not all fit"),
        (np.full((2, 3), -1), "uint8", "its values do not all fit"),
        (np.full((2, 3), 1e300), "float32", "its values do not all fit"),
        (np.full((2, 3), 3.4e38, np.float32), "bfloat16", "its values do not all fit"),
    ],
)
def test_another_type_is_an_error_that_says_what_is_right(given, wanted, why, read):
    with pytest.raises(InputError) as caught:
        read(
            [{"a": np.ones((2, 3), wanted)}, {"a": given}] if wanted != "bfloat16" else [A, given],
            inputs(wanted, b=None),
        )
    error = caught.value
    assert error.what == f"a sample of the calibration data is {given.dtype.name}, and the input is {wanted}"
    assert error.where == "sample 2, input 'a'"
    assert error.why == why
    assert error.fix == f"give {'float32' if wanted == 'bfloat16' else ElementType.of(wanted).numpy.name}"


# --- what does not fit


ERRORS = {
    "a name that is missing": (
        [{"a": A}],
        r"does not have the model's inputs\n  where: sample 1\n  why: it lacks 'b'\n  fix: its inputs are a, b",
    ),
    "a name that the model does not have": ([{"a": A, "b": B, "c": B}], r"why: the model has no input 'c'"),
    "both": ([{"a": A, "c": B}], r"why: it lacks 'b'; the model has no input 'c'"),
    "too few in a sequence": ([(A, B), (A,)], r"is a sequence of 1, and the model has 2 inputs\n  where: sample 2"),
    "an array where there are two inputs": ([A], r"is an array, and the model has 2 inputs"),
    "a number": ([3], r"a sample of the calibration data is a int\n  where: sample 1\n  fix: give an iterable"),
    "text": (["ab"], r"a sample of the calibration data is a str"),
    "another rank": (
        [{"a": A[0], "b": B}],
        r"has the shape \(3,\)\n  where: sample 1, input 'a'\n  why: it has rank 1, and the input has rank 2\n"
        r"  fix: give the shape \(1, 3\)..\(4, 3\)",
    ),
    "a size out of the range": (
        [(A, B), (np.ones((5, 2), np.float32), B)],
        r"where: sample 2, input 'a'\n  why: axis 0 is 5, and the input takes 1..4; axis 1 is 2, and the input takes 3..3",
    ),
    "a static size": (
        [(A, np.ones(3, np.int64))],
        r"axis 0 is 3, and the input takes 2..2\n  fix: give the shape \(2,\),",
    ),
    "rows of several lengths": ([([[1.0], [2.0, 3.0]], B)], r"is no array\n  where: sample 1, input 'a'"),
    "no samples": ([], r"the calibration data are empty"),
    "an empty generator": (iter(()), r"the calibration data are empty"),
    "no iterable": (7, r"a int is no calibration data\n  fix: give an iterable of samples"),
}


@pytest.mark.parametrize(("given", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_which_sample_and_what_is_right_of(given, message, read):
    with pytest.raises(InputError, match=message):
        read(given)


def test_files_that_are_none_are_errors_that_name_them(tmp_path, read):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no zip")
    (tmp_path / "text.npz").write_text("nothing")
    np.save(tmp_path / "alone.npy", A)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object), b=B)
    for name, message in (
        ("empty", "holds no .npz file"),
        ("missing", "there is no such file"),
        ("broken.npz", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("alone.npy", "it holds one array, without a name"),
        ("objects.npz", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_a_file_is_named_where_its_arrays_do_not_fit(tmp_path, read):
    np.savez(tmp_path / "0.npz", a=A[0], b=B)
    with pytest.raises(InputError, match=rf"where: {tmp_path}/0.npz, input 'a'"):
        read(tmp_path)
