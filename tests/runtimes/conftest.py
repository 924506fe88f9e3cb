import authors
import pytest
from c_programs import written

from lstm_deploy.runtimes import c_compiler


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    _, path = written(authors.Stock(), tmp_path_factory.mktemp("stock"), "x:float32[batch,seq,4]", name="stock")
    c_compiler.build(path)
    return path
