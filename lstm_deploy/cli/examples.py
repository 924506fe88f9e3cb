"""The examples at the end of each command's help; tests run them."""

START = """\
Start here:
  lstm-deploy demo                      # every step, on data that is included
  lstm-deploy export weights.pt         # your own model, to ONNX and more
  lstm-deploy export --help             # options and examples of a command
"""

EXAMPLES = {
    "train": """\
Examples:
  # Forecast a column of a table
  lstm-deploy train prices.csv --task forecast --target close
  # The same, from columns of your choice, with a GRU
  lstm-deploy train prices.csv --task forecast --target close \\
      --features open,high,low,close --cell gru -o gru.safetensors
  # Learn to continue a text
  lstm-deploy train book.txt --task lm
  # Learn the labels of texts
  lstm-deploy train reviews.csv --task classify --text-column review
  # Try 20 sets of options, and train with the best
  lstm-deploy train prices.csv --task forecast --target close --search 20 \\
      -o best.safetensors
""",
    "export": """\
Examples:
  # A checkpoint of lstm-deploy train
  lstm-deploy export prices.safetensors
  # Weights of your own network, as ONNX and C
  lstm-deploy export weights.pt --model net.py:Net --init '{"hidden": 16}' \\
      --input 'x:float32[batch,seq,4]' --format onnx,c
  # With int8 and float16 beside float32
  lstm-deploy export book.safetensors --quantize int8 --half
  # Only show what would be written
  lstm-deploy export gru.safetensors --dry-run
""",
    "validate": """\
Examples:
  # All artifacts of a bundle, against the model it was made from
  lstm-deploy validate exported/prices
  # An ONNX file from elsewhere, against your network
  lstm-deploy validate theirs.onnx --reference weights.pt --model net.py:Net \\
      --init '{"hidden": 16}' --input 'x:float32[batch,seq,4]'
  # On a GPU
  lstm-deploy validate exported/prices --provider cuda
""",
    "bench": """\
Examples:
  # A bundle, beside PyTorch
  lstm-deploy bench exported/prices
  # One step a call, for one stream at a time, as JSON
  lstm-deploy bench exported/prices --scenario stream --batch 1 --json old.json
  # Beside stock exports and OpenVINO
  lstm-deploy bench exported/prices --baseline eager,stock-onnx,openvino
  # On a GPU
  lstm-deploy bench exported/prices --provider cuda
""",
    "compare": """\
Examples:
  # Before and after a change
  lstm-deploy bench exported/prices --json old.json
  lstm-deploy bench exported/prices --json new.json
  lstm-deploy compare old.json new.json
  # In a test that fails from 10% on
  lstm-deploy compare old.json new.json --fail-over 10%
""",
    "run": """\
Examples:
  # Forecast what follows a table
  lstm-deploy run exported/prices --input prices.csv
  # Continue a text
  lstm-deploy run exported/book --prompt "The " --steps 80 --temperature 0.7
  # Classify each line of a file
  lstm-deploy run exported/reviews --input lines.txt --json
  # Answer each line of a pipe at once
  tail -n +2 rows.csv | lstm-deploy run exported/prices --stream
""",
    "embed": """\
Examples:
  # What languages there are, and what each needs
  lstm-deploy embed --list
  # A page for the browser
  lstm-deploy embed exported/book --lang web -o page
  # A C++ client
  lstm-deploy embed exported/prices --lang cpp
""",
    "inspect": """\
Examples:
  # A bundle
  lstm-deploy inspect exported/prices
  # An ONNX file from elsewhere: where its state is, what is wrong with it
  lstm-deploy inspect theirs.onnx
  # A file of weights: which network it may be
  lstm-deploy inspect weights.pt
""",
    "demo": """\
Examples:
  # Into exported/demo
  lstm-deploy demo
  # Elsewhere
  lstm-deploy demo -o tour
""",
    "env": """\
Examples:
  # For a bug report
  lstm-deploy env
  # For a program
  lstm-deploy env --json
""",
}
"""By command."""
