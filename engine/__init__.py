"""What a transfer does: the state machine, the coordinator, services, ledger, records, recovery.

Embedders start here::

    async with open_engine(Settings(data_dir="data")) as engine:
        outcome = await engine.transfer(source="funding", target="trading", user_id=1, asset_id=1, amount=100)
"""

from transfer_engine.engine.assembly import open_engine
from transfer_engine.engine.backends import DataDirUnusable, Opening, open_backends
from transfer_engine.engine.callers import TransferOrder
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.garbage import tune_garbage_collection
from transfer_engine.engine.lives import NodeInUse
from transfer_engine.engine.outcomes import (
    Balance,
    InvalidTransfer,
    KeyReused,
    Overloaded,
    Readiness,
    RefusalCode,
    Refused,
    Resolution,
    ResolutionReport,
    TransferNotFound,
    TransferOutcome,
)
from transfer_engine.engine.parts import EngineStatistics
from transfer_engine.engine.settings import (
    AssetSettings,
    CassandraSettings,
    ServiceSettings,
    Settings,
    TigerBeetleSettings,
    TlsSettings,
)
from transfer_engine.schema.transfers import TransferRecord, TransferState, TransferStatus

__all__ = [
    "AssetSettings",
    "Balance",
    "CassandraSettings",
    "DataDirUnusable",
    "Engine",
    "EngineStatistics",
    "InvalidTransfer",
    "KeyReused",
    "NodeInUse",
    "Opening",
    "Overloaded",
    "Readiness",
    "RefusalCode",
    "Refused",
    "Resolution",
    "ResolutionReport",
    "ServiceSettings",
    "Settings",
    "TigerBeetleSettings",
    "TlsSettings",
    "TransferNotFound",
    "TransferOrder",
    "TransferOutcome",
    "TransferRecord",
    "TransferState",
    "TransferStatus",
    "open_backends",
    "open_engine",
    "tune_garbage_collection",
]
