"""What is computed once instead of at every run: constants, and normalisations folded into convolutions."""

import onnx_ir as ir
from onnx_ir.passes import PassManager, Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

ROUNDS = 2
# Those of PyTorch's own `optimize` that standard networks have a use for. Left out above all is the one that joins
# slices: for every node it looks at all others.
RULES = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.dropout_inference_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.flatten_to_reshape_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_gemm_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)


class _FoldConstants(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = optimizer.fold_constants_ir(model, onnx_shape_inference=True)
        return ir.passes.PassResult(model, found.modified)


def simplify(model: ir.Model) -> None:
    """Simplify a graph in place, in time proportional to its nodes; it computes the same."""
    rounds = [_FoldConstants(), RewritePass(RULES), passes.RemoveUnusedNodesPass()]
    Sequential(
        passes.InlinePass(),
        PassManager(rounds, steps=ROUNDS, early_stop=True),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)
