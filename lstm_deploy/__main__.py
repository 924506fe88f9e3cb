"""`python -m lstm_deploy` is `lstm-deploy`."""

from lstm_deploy.cli import main

main()
