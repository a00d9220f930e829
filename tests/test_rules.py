"""Rules: what they match, and what is wrong with them."""

import pytest

from torch2trt_onnx.errors import PrecisionError, RuleError
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.rules import Rule, parse_rules

NODE = ("/encoder/layers.3/attn/MatMul", "encoder.layers.3.attn", "MatMul", ["scores", "other"])


MATCHES = {
    "a node name": ({"name": "/encoder/layers.3/attn/MatMul"}, True),
    "a part of a name is not the name": ({"name": "MatMul"}, False),
    "a glob in a name": ({"name": "*/attn/*"}, True),
    "a module with all that is inside it": ({"module": "encoder.layers.3"}, True),
    "the same with a star": ({"module": "encoder.layers.3.*"}, True),
    "the module itself with a star": ({"module": "encoder.layers.3.attn.*"}, True),
    "a star in the middle": ({"module": "encoder.*.attn"}, True),
    "a module whose name only begins alike": ({"module": "encoder.layer"}, False),
    "an operator": ({"op": "MatMul"}, True),
    "one of several operators": ({"op": "[MG]e*"}, False),
    "an output tensor": ({"tensor": "scores"}, True),
    "a later output": ({"tensor": "oth*"}, True),
    "a regular expression for the whole word": ({"name": r"re:.*/layers\.\d+/attn/.*"}, True),
    "a regular expression that fits a part only": ({"name": "re:layers"}, False),
    "a regular expression for a module with all that is inside it": (
        {"module": r"re:encoder\.layers\.[0-3]"},
        True,
    ),
    "two patterns that both fit": ({"module": "encoder", "op": "MatMul"}, True),
    "two patterns of which one fits": ({"module": "encoder", "op": "Softmax"}, False),
}


@pytest.mark.parametrize(("patterns", "expected"), MATCHES.values(), ids=MATCHES)
def test_a_rule_matches(patterns, expected):
    assert Rule(Precision.FP16, **patterns).matches(*NODE) is expected


def test_rules_are_read_from_toml(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rule]]\nmodule = "encoder.*"\nprecision = "half"\n[[rule]]\nop = "Softmax"\nprecision = "fp32"\n'
    )
    assert parse_rules(path) == (Rule(Precision.FP16, module="encoder.*"), Rule(Precision.FP32, op="Softmax"))
    assert parse_rules(path) == parse_rules(str(path)) == parse_rules([r.to_json() for r in parse_rules(path)])


WRONG = {
    "no TOML": ("[[rule]\n", "line 1"),
    "no rules": ("x = 1\n", "holds no rules"),
    "a rule of no precision": ('[[rule]]\nop = "Add"\n', "rule 1"),
    "an unknown key": ('[[rule]]\noperator = "Add"\nprecision = "fp16"\n', "unknown keys operator"),
    "no pattern": ('[[rule]]\nop = "Add"\nprecision = "fp16"\n[[rule]]\nprecision = "fp16"\n', "rule 2"),
    "an unknown precision": ('[[rule]]\nop = "Add"\nprecision = "fp12"\n', "fp12"),
    "a precision that rules cannot give": ('[[rule]]\nop = "Add"\nprecision = "int8"\n', "QuantizeLinear"),
    "no regular expression": ('[[rule]]\nop = "re:("\nprecision = "fp16"\n', "regular expression"),
    "a pattern that is no string": ("[[rule]]\nop = 3\nprecision = 'fp16'\n", "use a string"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_named_with_what_is_wrong(text, said, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(PrecisionError, match=r"rules\.toml") as error:
        parse_rules(path)
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RuleError, match=r"none\.toml"):
        parse_rules(tmp_path / "none.toml")


@pytest.mark.parametrize("given", ["*.toml", 3, ["*"], [3]])
def test_what_is_no_rule_is_named(given):
    with pytest.raises(RuleError):
        parse_rules(given)
