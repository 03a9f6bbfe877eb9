"""A tool for the command line, with options, input and exit codes."""

import argparse
import sys

import requests


def main():
    parser = argparse.ArgumentParser(description="Ask for symbols.")
    parser.add_argument("base")
    parser.add_argument("symbols", nargs="*")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    bad = 0
    for symbol in options.symbols or sys.stdin.read().split():
        try:
            response = requests.get(options.base + "/api/v1/symbol/" + symbol)
            response.raise_for_status()
        except requests.HTTPError as error:
            print(symbol, error.response.status_code, error.response.json()["code"])
            bad += 1
        except requests.RequestException as error:
            print(symbol, type(error).__name__)
            bad += 1
        else:
            print(symbol, "ok")
    print("%d bad" % bad, file=sys.stderr)
    return 3 if bad and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
