import pytest
from command_line import fails


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "There is no command 'trian'; did you mean 'train'? Choose from train, export,"),
        ("xyzzy", "There is no command 'xyzzy'; choose from train, export,"),
        ("--vresion", "There is no option --vresion; did you mean --version?"),
        ("export m.pt --formt onnx", "There is no option --formt; did you mean --format?"),
        ("run b --text hello", "There is no option --text; see lstm-deploy run --help."),
        ("export m.pt --xyzzy", "There is no option --xyzzy; see lstm-deploy export --help."),
        (
            "train a.csv --task forcast",
            "--task cannot be 'forcast'; did you mean 'forecast'? Choose from forecast,",
        ),
        ("train a.csv --task LM", "--task cannot be 'LM'; did you mean 'lm'?"),
        ("train a.csv --task xyzzy", "--task cannot be 'xyzzy'; choose from forecast, lm, classify."),
        ("validate b --provider cdua", "--provider cannot be 'cdua'; did you mean 'cuda'?"),
        ("embed b --lang pyton", "--lang cannot be 'pyton'; did you mean 'python'?"),
        ("embed b --lang c++", "--lang cannot be 'c++'; did you mean 'cpp'? Choose from python, node,"),
        ("embed b --lang JavaScript", "--lang cannot be 'JavaScript'; did you mean 'node'?"),
        ("embed b --lang golang", "--lang cannot be 'golang'; did you mean 'go'?"),
        ("embed b --lang py", "--lang cannot be 'py'; did you mean 'python'?"),
        ("bench b --baseline egaer", "'egaer' is not a baseline; did you mean 'eager'?"),
        ("bench b --provider cpu,cdua", "'cdua' is not a provider; did you mean 'cuda'?"),
        ("export m.pt --format onnx,torchscrip", "'torchscrip' is not a format; did you mean 'torchscript'?"),
        ("train a.csv --task lm --layers 65", "--layers cannot be '65'; it must be at most 64."),
        ("train a.csv --task lm --layers x", "--layers cannot be 'x'; it must be a whole number."),
        ("train a.csv --task lm --dropout x", "--dropout cannot be 'x'; it must be a number."),
        ("run b --steps 0", "--steps cannot be '0'; it must be at least 1."),
        ("train a.csv", "Missing --task; give --task forecast, lm or classify."),
        ("train --task lm", "Missing DATA; name a file to learn from, or generate a series with --data sine."),
        ("export", "Missing SOURCE: checkpoint that train wrote, or any file of PyTorch weights."),
        ("compare a.json", "Missing NEW: a later result"),
        ("embed", "Missing BUNDLE; name"),
        ("export m.pt more", "Got unexpected extra argument(s) (more); see lstm-deploy export --help."),
        ("train a.csv --task", "Option '--task' requires an argument; see lstm-deploy train --help."),
    ],
)
def test_wrong_usage_is_one_sentence_with_what_was_meant(words, message):
    assert message in fails(*words.split())
