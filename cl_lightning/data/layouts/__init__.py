"""Layouts of a row of the user's own tasks, chosen by a task's `layout`."""

from cl_lightning.data.layouts.alpaca import Alpaca
from cl_lightning.data.layouts.base import Layout
from cl_lightning.data.layouts.fields import Fields
from cl_lightning.data.layouts.messages import Messages
from cl_lightning.data.layouts.sharegpt import ShareGPT

LAYOUTS: dict[str, type[Layout]] = {
    "fields": Fields,
    "messages": Messages,
    "sharegpt": ShareGPT,
    "alpaca": Alpaca,
}
