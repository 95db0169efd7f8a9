"""Grids as tokens with coordinates: the vocabulary, the one position rule, encoding and decoding.

A pair is `start`, the rows of the input, `out`, the rows of the output, `end`. Every row ends in
`row`. H and W are the rows and columns of a grid.
"""
import numpy as np

COLORS = 10                                    # tokens 0 to 9 are the colors themselves
START, ROW, OUT, END, VOCAB = 10, 11, 12, 13, 14
NAMES = [str(color) for color in range(COLORS)] + ["start", "row", "out", "end"]

# The position rule. A cursor is (index in the document, segment, row, column); a segment is pair
# index * 2 + input/output. A token's coordinates are the cursor before the token is read. Reading
# it multiplies the cursor by KEEP[token] and adds STEP[token], so no position depends on tokens
# still to come.
#
# [[3, 0]] -> [[0, 3]], each token with (index, segment, row, column):
#   start 0 0 0 0   3 1 0 0 0   0 2 0 0 1   row 3 0 0 2   out 4 0 1 0
#                   0 5 1 0 0   3 6 1 0 1   row 7 1 0 2   end 8 1 1 0
# `start` shares (0, 0) with the first cell; `row` stands at column W, `out` and `end` at row H. So
# a canvas of 32 holds grids of up to 31 x 31.
KEEP = np.ones((VOCAB, 4), np.int16)
STEP = np.zeros((VOCAB, 4), np.int16)
STEP[:, 0] = 1                                 # every token: one further in the document
STEP[:COLORS, 3] = 1                           # a cell: one column on
KEEP[ROW, 3] = 0                               # end of a row: column 0 ...
STEP[ROW, 2] = 1                               # ... of the next row
KEEP[[OUT, END], 2:] = 0                       # end of a grid: row 0, column 0 ...
STEP[[OUT, END], 1] = 1                        # ... of the output, or of the next pair's input


def advance(cursor, token, keep=KEEP, step=STEP):
    """Returns the cursors (N, 4) after one more token each, (N,).

    Works on numpy arrays, and on tensors when the two tables are given as tensors.
    """
    return cursor * keep[token] + step[token]


def trace(tokens):
    """Returns the coordinates (T, 4) int16 of a document's tokens (T,): the cursor before each.

    The same as `advance` token by token, as one sum: all steps before a token, less those up to
    the last token that set a coordinate back to 0.
    """
    before = STEP[tokens].cumsum(0) - STEP[tokens]
    restart = np.zeros_like(before)
    restart[1:] = np.where(KEEP[tokens[:-1]], 0, before[:-1])
    return (before - np.maximum.accumulate(restart)).astype(np.int16)


def grid_length(H, W):
    """Tokens of a grid: its cells, and one `row` for each row."""
    return H * (W + 1)


def pair_length(input_shape, output_shape):
    """Tokens of a pair: `start`, the input, `out`, the output, `end`."""
    return 3 + grid_length(*input_shape) + grid_length(*output_shape)


def encode_grid(grid):
    """Returns a grid (H, W) as H * (W + 1) tokens in reading order, each row ended by `row`."""
    tokens = np.full((grid.shape[0], grid.shape[1] + 1), ROW, np.uint8)
    tokens[:, :-1] = grid
    return tokens.ravel()


def encode_pair(pair):
    """Returns (tokens uint8, length of the prompt) of an (input, output) pair.

    The prompt is all up to and including `out`. Without an output (None) there is only the prompt;
    without an input there are only `start` and `out` in it.
    """
    grid, output = pair
    cells = [] if grid is None else encode_grid(grid)
    tokens = [[START], cells, [OUT]]
    if output is not None:
        tokens += [encode_grid(output), [END]]
    return np.concatenate(tokens).astype(np.uint8), len(cells) + 2


def decode_grid(tokens):
    """Returns the grid (H, W) uint8 of an answer without its `end`; None if it is no rectangle."""
    width = np.append(tokens, ROW).tolist().index(ROW)         # of the first row, or 0
    if width == 0 or len(tokens) % (width + 1):
        return None
    grid = tokens.reshape(-1, width + 1)[:, :-1].astype(np.uint8)
    if grid.max() >= COLORS or not np.array_equal(encode_grid(grid), tokens):
        return None
    return grid

