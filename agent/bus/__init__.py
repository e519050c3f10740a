"""The edge to NATS: receives documents, sends acknowledgements and measurements, answers queries."""

from agent.bus.bus import Bus, Handler
from agent.bus.documents import Delivery
from agent.bus.rpc import RpcError
from agent.bus.settings import BusSettings

__all__ = ["Bus", "BusSettings", "Delivery", "Handler", "RpcError"]
