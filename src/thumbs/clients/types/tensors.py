"""Arrays of numbers as clients give and get them."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thumbs.errors import DataError

if TYPE_CHECKING:
    import torch

TensorDtype = Literal["int64", "float32"]
_NUMPY_DTYPES = {"int64": np.int64, "float32": np.float32}


@dataclass(frozen=True, eq=False, init=False)
class TensorData:
    """Numbers with a dtype and a shape, dense or, for two dimensions, compressed sparse rows (CSR).

    `values` are the numbers: of a dense tensor in its shape, of a CSR tensor the listed entries, row after row.
    Row i of a CSR tensor lists entries sparse_crow_indices[i] to sparse_crow_indices[i + 1], in the columns that
    sparse_col_indices names; an entry that is not listed is 0. What is given is copied.
    """

    dtype: TensorDtype
    shape: list[int]
    sparse_crow_indices: list[int] | None
    sparse_col_indices: list[int] | None
    values: np.ndarray

    def __init__(
        self,
        data: Sequence[float] | np.ndarray,
        dtype: TensorDtype,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: Sequence[int] | np.ndarray | None = None,
        sparse_col_indices: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Raises DataError if the numbers do not fit the dtype, the shape or the indices."""
        values = _as_dtype(data, dtype)
        dims = list(values.shape if shape is None else map(operator.index, shape))
        crow = col = None
        if sparse_crow_indices is None and sparse_col_indices is None:
            if values.size != math.prod(dims) or min(dims, default=0) < 0:
                raise DataError(f"got {values.size} numbers for the shape {dims}")
            values = values.reshape(dims)
        else:
            if sparse_crow_indices is None or sparse_col_indices is None or shape is None:
                raise DataError("a sparse tensor needs shape, sparse_crow_indices and sparse_col_indices")
            crow, col = (_as_dtype(indices, "int64") for indices in (sparse_crow_indices, sparse_col_indices))
            if problem := _csr_problem(values, dims, crow, col):
                raise DataError(f"sparse tensor: {problem}")
        vars(self).update(  # what a frozen dataclass does not let `self.x = …` do
            dtype=dtype,
            shape=dims,
            sparse_crow_indices=None if crow is None else crow.tolist(),
            sparse_col_indices=None if col is None else col.tolist(),
            values=values,
        )

    @property
    def data(self) -> list[int] | list[float]:
        """The numbers as a flat list: of a CSR tensor the listed entries alone."""
        return self.values.ravel().tolist()

    @classmethod
    def from_numpy(cls, array: np.ndarray) -> TensorData:
        """Floats become float32, integers int64."""
        return cls(array, "float32" if array.dtype.kind == "f" else "int64", array.shape)

    @classmethod
    def from_torch(cls, tensor: torch.Tensor) -> TensorData:
        """Floats become float32, integers int64; gradients and devices are left behind."""
        dense = tensor.detach().cpu()
        return cls.from_numpy((dense.float() if dense.is_floating_point() else dense).numpy())

    @classmethod
    def from_torch_sparse(cls, tensor: torch.Tensor, pad_value: int = 0) -> TensorData:
        """CSR of the entries that differ from `pad_value`; dense unless two-dimensional and smaller as CSR."""
        dense = cls.from_torch(tensor)
        if len(dense.shape) != 2:
            return dense
        listed = dense.values != operator.index(pad_value)
        crow = np.concatenate([[0], listed.sum(axis=1).cumsum()])
        if len(crow) + 2 * listed.sum() >= listed.size:
            return dense
        return cls(dense.values[listed], dense.dtype, dense.shape, crow, listed.nonzero()[1])

    def to_numpy(self, pad_value: int = 0) -> np.ndarray:
        """The dense array, not a copy if it is stored dense; entries that CSR does not list are `pad_value`."""
        if self.sparse_crow_indices is None:
            return self.values
        dense = np.full(self.shape, operator.index(pad_value), self.values.dtype)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.sparse_crow_indices))
        dense[rows, self.sparse_col_indices] = self.values
        return dense

    def to_torch(self, pad_value: int = 0) -> torch.Tensor:
        """The numbers of `to_numpy` as a torch tensor."""
        import torch  # here, because a client that only samples should not wait for it

        return torch.from_numpy(self.to_numpy(pad_value))

    def tolist(self, pad_value: int = 0) -> list[Any]:
        """The numbers of `to_numpy` as nested lists."""
        return self.to_numpy(pad_value).tolist()


def _as_dtype(data: Any, dtype: str) -> np.ndarray:
    """A writable array of that dtype; raises DataError if a number would change by more than rounding."""
    if dtype not in _NUMPY_DTYPES:
        raise DataError(f"dtype {dtype!r}; a tensor is 'int64' or 'float32'")
    try:
        array = np.asarray(data)
    except (ValueError, TypeError, OverflowError):  # ragged lists
        array = np.asarray(None)
    if array.size and array.dtype.kind not in "biuf":
        raise DataError(f"got {reprlib.repr(data)}; a tensor is a rectangular array of numbers, integers below 2**63")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(_NUMPY_DTYPES[dtype])  # a copy always
    if dtype == "int64" and array.dtype.kind in "uf" and not np.array_equal(converted, array):
        raise DataError(f"got {reprlib.repr(data)}; dtype int64 takes whole numbers below 2**63")
    return converted


def _csr_problem(values: np.ndarray, shape: list[int], crow: np.ndarray, col: np.ndarray) -> str:
    """What is wrong with the indices; empty where nothing is."""
    if len(shape) != 2 or min(shape) < 0 or values.ndim != 1 or crow.ndim != 1 or col.ndim != 1:
        return f"got the shape {shape}; only a table of two dimensions can be sparse, with flat data and indices"
    rows, columns = shape
    count = values.size
    if col.size != count:
        return f"got {count} values and {col.size} column indices"
    if crow.size != rows + 1 or crow[0] != 0 or crow[-1] != count or (crow[:-1] > crow[1:]).any():
        return f"row indices are {rows + 1} rising numbers from 0 to the number of values, {count}"
    if count and (col.min() < 0 or col.max() >= columns):
        return f"column indices are from 0 to {columns - 1}, got {col.min()} to {col.max()}"
    rising = np.diff(col) > 0
    starts = crow[(crow > 0) & (crow < count)]
    rising[starts - 1] = True
    return "" if rising.all() else "the column indices of each row rise, without repeats"
