"""Credit the users that `transfer.lua` moves money of: both accounts of each, through the API."""

import http.client
import json
import os
import sys
from urllib.parse import urlsplit

AMOUNT = 10**13


def main(url: str) -> None:
    """Credit them by the server at ``url``."""
    users = int(os.environ.get("USERS", "1000"))
    first_user = int(os.environ.get("FIRST_USER", "1"))
    asset_id = int(os.environ.get("ASSET_ID", "1"))
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    for user_id in range(first_user, first_user + users):
        for account in ("funding", "trading"):
            body = {"user_id": user_id, "account": account, "asset_id": asset_id, "amount": AMOUNT}
            connection.request("POST", "/api/v1/admin/credits", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 201:
                sys.exit(f"{answer.status} {text.decode()}")
    print(f"{users} users have {AMOUNT} in both accounts")


if __name__ == "__main__":
    main(*sys.argv[1:])
