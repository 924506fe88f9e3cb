import authors
from c_programs import Linear, written

from lstm_deploy.artifacts.c_source import read_interface


def test_precision_and_functions_are_read_from_the_source(tmp_path):
    _, stock = written(authors.Stock(), tmp_path, "x:float32[batch,seq,4]", name="stock")
    assert read_interface(stock).precision == "float32"
    _, path = written(Linear(3, 8, 1), tmp_path, "x:float32[batch,seq,3]", int8=True)
    assert read_interface(path).precision == "int8"
    heads = [head for _, head in read_interface(stock).prototypes().values()]
    assert heads == [
        "void stock_init(stock_state *state)",
        "void stock_step(stock_state *state, const float *x, float *y)",
        "void stock_sequence(stock_state *state, size_t steps, const float *x, float *y)",
    ]
