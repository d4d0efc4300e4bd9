"""The name of a customer becomes two fields: each row is rewritten."""

from everlog.migrations import INT64, STRING, Fields, Index, Migration, Table, Transform

from ..v20260105093000_create_orders.model_pb2 import Order as OrderBefore
from .model_pb2 import Order

__all__ = ["MIGRATION", "ORDERS", "Order"]

_order = Fields(Order)
NUMBER = _order("number", 1, INT64)
LAST = _order("last", 5, STRING)

ORDERS = Table("orders", Order, key=NUMBER, indexes=(Index("by_last", LAST),))


def up(old: OrderBefore) -> Order:
    first, last = old.customer.split(" ")
    return Order(number=old.number, first=first, last=last, pieces=old.pieces)


def down(new: Order) -> OrderBefore:
    return OrderBefore(number=new.number, customer=f"{new.first} {new.last}", pieces=new.pieces)


MIGRATION = Migration(tables=[ORDERS], transforms=[Transform(ORDERS, OrderBefore, up, down)])
