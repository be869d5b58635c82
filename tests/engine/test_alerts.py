"""What an alert about a transfer says: what finds its other lines."""

from structlog.testing import capture_logs

from transfer_engine.engine.alerts import Alerts
from transfer_engine.engine.open_transfers import OpenTransfer
from transfer_engine.engine.services.registry import Service, ServiceKind
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.transfers import Intent

REQ_ID = issued_req_id(7)


def test_an_alert_about_a_transfer_names_it_as_the_doors_do() -> None:
    intent = Intent(
        req_id=REQ_ID.to_bytes(16),
        source="funding",
        target="trading",
        user_id=4001,
        target_user_id=4001,
        asset_id=1,
        amount=1,
        accepted_at=1_000,
        fingerprint=0,
    )
    transfer = OpenTransfer(
        req_id=REQ_ID,
        intent=intent,
        source=Service("funding", 2, ServiceKind.WALLET),
        target=Service("trading", 3, ServiceKind.WALLET),
    )
    alerts = Alerts()
    with capture_logs() as lines:
        alerts.warn("drive_interrupted", transfer=transfer, error="gone")
        alerts.critical("claim_lost", error="other")
    about, other = lines
    assert (about["event"], about["req_id"], about["user"]) == ("drive_interrupted", str(transfer.uuid), 4001)
    assert "retries=0" in about["transfer"]
    assert other == {"event": "claim_lost", "error": "other", "log_level": "critical"}
    assert alerts.counts() == {"drive_interrupted": 1, "claim_lost": 1}
