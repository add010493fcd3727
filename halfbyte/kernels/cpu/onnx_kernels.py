"""Spans and heads as onnxruntime graphs, 4-bit products by its MatMulNBits with 8-bit activations.

One graph a span: at one row a call costs about 15 µs and so does waking the threads, as much as the small products
themselves. All graphs share one thread pool. A graph owns the only copy of its weights once it is built.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from halfbyte.checkpoint.int4 import Int4Weight, rows_of
from halfbyte.kernels import reference
from halfbyte.kernels.cache_kind import CacheKind, only_auto
from halfbyte.kernels.interface import (
    Adapt,
    AfterAttention,
    LinearKernel,
    LinearWeight,
    PagedBatch,
    PassShape,
    Span,
    SpanKernel,
)
from halfbyte.kernels.reference import ROWS_FOR_EQUAL_ROUNDING, ReferenceKernels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MICROSOFT = "com.microsoft"
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: activations rounded to 8 bits, a scale for each block of a row
HEAD_BLOCK = 32
ROWS_FOR_ONE_THREAD = 16


class OnnxKernels:
    """4-bit linears stay 4-bit; the head runs in 8 bits (the file keeps it as it was); what is float stays float."""

    def __init__(self, *, adaptable: bool = False) -> None:
        """adaptable: spans can be called with `adapt`; they are then not fused."""
        self.adaptable = adaptable
        self.takes_order = True

    @contextlib.contextmanager
    def threads(self, rows: int) -> Iterator[None]:
        """At a few rows torch works alone: its pool and onnxruntime's would fight for the cores.

        (On two cores a decoding step took three times as long with two torch threads as with one.)
        """
        before = torch.get_num_threads()
        torch.set_num_threads(1 if rows <= ROWS_FOR_ONE_THREAD else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def span(self, p: Span) -> SpanKernel:
        """Prepare a span."""
        if self.adaptable or (p.after is not None and p.after.reduce is not None):
            return self._span_in_parts(p)
        graph, hidden = Graph(), p.norm.shape[0]
        residual = graph.input("residual", hidden)
        if p.after is None:
            x = graph.rms_norm(residual, p.norm, p.eps)
        else:
            attended = graph.input("attended", _inputs(p.after.o))
            residual, x = graph.after_attention(p.after, attended, residual, p.norm, p.eps)
        out, width = (x, hidden) if p.qkv is None else (graph.linear(x, p.qkv), _outputs(p.qkv))
        if p.after is None:
            first = graph.build({out: width})
            return lambda _, residual, adapt=None: (first(residual)[0], residual)
        run = graph.build({out: width, residual: hidden})

        def middle(
            attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert attended is not None
            assert adapt is None, "adapters need adaptable=True"
            x, total = run(residual, attended)
            return x, total

        return middle

    def _span_in_parts(self, p: Span) -> SpanKernel:
        """A graph for each product, and torch between them."""
        weights = {"qkv": p.qkv} | (
            {"o": p.after.o, "gate_up": p.after.gate_up, "down": p.after.down} if p.after else {}
        )
        kernels = {name: self.linear(weight) for name, weight in weights.items() if weight is not None}
        nothing = LinearWeight(torch.empty(0))  # the graphs own the weights
        after = p.after and AfterAttention(nothing, p.after.norm.float(), nothing, nothing, p.after.reduce)
        parts = Span(p.eps, after, p.norm.float(), p.qkv and nothing)

        def run(
            attended: torch.Tensor | None, residual: torch.Tensor, adapt: Adapt | None = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            def product(x: torch.Tensor, _: LinearWeight, name: str) -> torch.Tensor:
                y = kernels[name](x)
                if adapt is not None:
                    adapt(name, x, y)
                return y

            return reference.span(parts, attended, residual, product)

        return run

    def whole_pass(self, shape: PassShape, spans: Sequence[SpanKernel]) -> None:
        """None: a pass goes span by span."""

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        batch: PagedBatch,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See reference.paged_attention."""
        return reference.paged_attention(q, k, v, k_cache, v_cache, batch, scale, window)

    def kv_cache(self, blocks: int, heads: int, block_size: int, width: int, kind: CacheKind = "auto") -> torch.Tensor:
        """Float32."""
        only_auto(kind)
        return torch.empty(blocks, heads, block_size, width)

    def linear(self, weight: LinearWeight) -> LinearKernel:
        """Prepare one linear by itself."""
        graph = Graph()
        x = graph.input("x", _inputs(weight))
        run = graph.build({graph.linear(x, weight): _outputs(weight)})
        return lambda x: run(x)[0]

    def head(self, weight: torch.Tensor) -> LinearKernel:
        """Prepare the output embedding in 8 bits, symmetric, a scale for each HEAD_BLOCK inputs."""
        if weight.shape[1] % HEAD_BLOCK:
            return ReferenceKernels().head(weight)
        graph = Graph()
        x = graph.input("x", weight.shape[1])
        run = graph.build({graph.linear_8bit(x, weight): weight.shape[0]})
        return lambda hidden: run(hidden)[0].clone()  # for one row, run's own buffer


class Graph:
    """Builds one onnx graph whose tensors are all [rows, width] float32."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.inputs: dict[str, int] = {}
        self.weights: list[Any] = []
        self.fewest_rows = 1
        self.has_integers = False  # products by MatMulNBits

    def input(self, name: str, width: int) -> str:
        """Declare an input of the graph; calls pass them in the order of declaration."""
        self.inputs[name] = width
        return name

    def node(self, op: str, inputs: list[str], outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Add an operator; its outputs get fresh names."""
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        return names

    def constant(self, value: np.ndarray) -> str:
        """Add a weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def vector(self, value: torch.Tensor) -> str:
        """Add a float32 weight."""
        return self.constant(value.float().contiguous().numpy())

    def rms_norm(self, x: str, weight: torch.Tensor, eps: float) -> str:
        """See reference.rms_norm."""
        return self.node("SimplifiedLayerNormalization", [x, self.vector(weight)], axis=-1, epsilon=eps)[0]

    def add_and_norm(self, x: str, residual: str, weight: torch.Tensor, eps: float) -> tuple[str, str]:
        """(residual + x, its norm) in one operator."""
        inputs = [x, residual, self.vector(weight)]
        normed, *_, total = self.node(
            "SkipSimplifiedLayerNormalization", inputs, outputs=4, domain=MICROSOFT, epsilon=eps
        )
        self.nodes[-1].output[1] = self.nodes[-1].output[2] = ""  # statistics for training, not computed
        return total, normed

    def after_attention(
        self, p: AfterAttention, attended: str, residual: str, next_norm: torch.Tensor, eps: float
    ) -> tuple[str, str]:
        """See reference.after_attention; returns the residual and its norm by `next_norm`."""
        residual, x = self.add_and_norm(self.linear(attended, p.o), residual, p.norm, eps)
        width = _outputs(p.gate_up) // 2  # two products: taking one's output apart cost more than starting another
        x, gate_up = self.in_order(x, p.gate_up), replace(p.gate_up, order=None)
        gate, up = (self.linear(x, rows(gate_up, part)) for part in (slice(width), slice(width, None)))
        sigmoid = self.node("Sigmoid", [gate])[0]
        activated = self.node("Mul", [self.node("Mul", [gate, sigmoid])[0], up])[0]
        return self.add_and_norm(self.linear(activated, p.down), residual, next_norm, eps)

    def linear(self, x: str, w: LinearWeight) -> str:
        """See reference.linear."""
        x = self.in_order(x, w)
        if isinstance(w.weight, Int4Weight) and (block := nbits_block(w.weight)):
            y = self._matmul_nbits(x, w.weight, block)
        else:
            weight = w.weight.dequantize() if isinstance(w.weight, Int4Weight) else w.weight
            y = self.node("MatMul", [x, self.vector(weight.T)])[0]
            self.fewest_rows = ROWS_FOR_EQUAL_ROUNDING * torch.get_num_threads()
        return y if w.bias is None else self.node("Add", [y, self.vector(w.bias)])[0]

    def in_order(self, x: str, w: LinearWeight) -> str:
        """The inputs in the order that the weight takes them in."""
        return x if w.order is None else self.node("Gather", [x, self.constant(w.order.numpy())], axis=1)[0]

    def _matmul_nbits(self, x: str, weight: Int4Weight, block: int) -> str:
        n, k = weight.q.shape
        repeat = weight.group_size // block
        scales = weight.s.float().repeat_interleave(repeat, 1)
        zeros = weight.z.repeat_interleave(repeat, 1)
        if zeros.shape[1] % 2:
            zeros = torch.nn.functional.pad(zeros, (0, 1))
        inputs = [
            self.constant(pack_pairs(weight.q).view(n, k // block, block // 2).numpy()),
            self.vector(scales.reshape(-1)),
            self.constant(pack_pairs(zeros).numpy()),
        ]
        attributes = {"K": k, "N": n, "bits": 4, "block_size": block, "accuracy_level": INT8_ACTIVATIONS}
        self.has_integers = True
        return self.node("MatMulNBits", [x, *inputs], domain=MICROSOFT, **attributes)[0]

    def linear_8bit(self, x: str, weight: torch.Tensor) -> str:
        """Product with a weight rounded to 8 bits: symmetric, so the stored zero point is the default of 128."""
        n, k = weight.shape
        q, scales = quantize_8bit(weight)
        inputs = [self.constant(q.view(n, k // HEAD_BLOCK, HEAD_BLOCK).numpy()), self.vector(scales.reshape(-1))]
        attributes = {"K": k, "N": n, "bits": 8, "block_size": HEAD_BLOCK, "accuracy_level": INT8_ACTIVATIONS}
        self.has_integers = True
        return self.node("MatMulNBits", [x, *inputs], domain=MICROSOFT, **attributes)[0]

    def build(self, outputs: dict[str, int]) -> Run:
        """Compile. `outputs` maps the tensors to return to their widths."""
        fewest = max(self.fewest_rows, fewest_equal_rows() if self.has_integers else 1)
        return Run(self.compile(outputs), self.inputs, outputs, fewest)

    def compile(self, outputs: dict[str, int]) -> Any:
        """The session of onnxruntime."""

        def declare(names: dict[str, int]) -> list[Any]:
            return [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", w]) for n, w in names.items()]

        graph = helper.make_graph(self.nodes, "span", declare(self.inputs), declare(outputs), self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return ort.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])


class Run:
    """A compiled graph. For one row, the decoding case, its buffers are bound once, which takes a third off a call.

    What a call of so few rows returns is overwritten by the next call of the same graph.
    """

    def __init__(self, session: Any, inputs: dict[str, int], outputs: dict[str, int], fewest_rows: int) -> None:
        """fewest_rows: calls of fewer are filled up, see reference.linear_by_row."""
        self.session = session
        self.inputs = inputs
        self.outputs = outputs
        self.fewest_rows = fewest_rows
        self.row_inputs = [torch.zeros(fewest_rows, width) for width in inputs.values()]
        self.row_outputs = [torch.empty(fewest_rows, width) for width in outputs.values()]
        self.row_binding = self._bind(self.row_inputs, self.row_outputs)

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """float32 [T, K] for each input -> float32 [T, N] for each output."""
        rows = tensors[0].shape[0]
        if rows <= self.fewest_rows:
            for buffer, x in zip(self.row_inputs, tensors, strict=True):
                (buffer if rows == self.fewest_rows else buffer[:rows]).copy_(x)
            self.session.run_with_iobinding(self.row_binding)
            return [y[:rows] for y in self.row_outputs] if self.fewest_rows > 1 else self.row_outputs
        held = [x.contiguous() for x in tensors]  # a binding knows addresses only: the tensors must outlive the run
        results = [torch.empty(rows, width) for width in self.outputs.values()]
        self.session.run_with_iobinding(self._bind(held, results))
        return results

    def _bind(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> Any:
        binding = self.session.io_binding()
        for name, x in zip(self.inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, x.shape, x.data_ptr())
        for name, y in zip(self.outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, y.shape, y.data_ptr())
        return binding


def nbits_block(weight: Int4Weight) -> int | None:
    """The block that MatMulNBits works in: 32 or 16, whichever divides the group, or None.

    It could work in blocks of up to 256, but from 64 on rounds an odd last row otherwise than two rows at once. With
    groups of 64 that takes half as long again at one row, and nothing that could be measured with groups of 32.
    """
    return next((b for b in (32, 16) if weight.group_size % b == 0), None)


@functools.cache
def fewest_equal_rows() -> int:
    """From how many rows on MatMulNBits gives a row the same, whatever is beside it: 1, or 2.

    With AVX2 and no more than that it sums a single row up in another order.
    """
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (64, 256), dtype=torch.uint8, generator=generator)
    scales, zeros = torch.rand(64, 8, generator=generator), torch.full((64, 8), 8, dtype=torch.uint8)
    graph = Graph()
    outputs = {graph.linear(graph.input("x", 256), LinearWeight(Int4Weight(q, scales, zeros))): 64}
    run, x = Run(graph.compile(outputs), graph.inputs, outputs, 1), torch.randn(2, 256, generator=generator)
    return 1 if torch.equal(run(x[:1])[0], run(x)[0][:1]) else 2


def pack_pairs(values: torch.Tensor) -> torch.Tensor:
    """Uint8 [N, K] with values 0..15 -> [N, K / 2], the even column in the low nibble."""
    return (values[:, 0::2] | (values[:, 1::2] << 4)).contiguous()


def quantize_8bit(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, K] -> uint8 [N, K] around 128 and float32 scales [N, K / HEAD_BLOCK]."""
    blocks = weight.float().view(weight.shape[0], -1, HEAD_BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    q = (blocks / scales.clamp(min=1e-30)).round_().add_(128).to(torch.uint8)
    return q.flatten(1), scales.squeeze(-1)


def rows(w: LinearWeight, part: slice) -> LinearWeight:
    """Some of a linear's outputs."""
    weight = w.weight
    taken = rows_of(weight, part) if isinstance(weight, Int4Weight) else weight[part]
    return LinearWeight(taken, None if w.bias is None else w.bias[part], w.order)


def _inputs(w: LinearWeight) -> int:
    if w.order is not None:
        return int(w.order.max()) + 1
    return int((w.weight.q if isinstance(w.weight, Int4Weight) else w.weight).shape[1])


def _outputs(w: LinearWeight) -> int:
    return int((w.weight.q if isinstance(w.weight, Int4Weight) else w.weight).shape[0])


@functools.cache
def _share_threads() -> None:
    """One pool for every graph: a pool each would leave hundreds of threads spinning."""
    ort.set_global_thread_pool_sizes(torch.get_num_threads(), 1)


def _options() -> Any:
    _share_threads()
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options
