"""The models, put together from the layers: the class of each architecture, and that of its
configuration.
"""

from minillm.models.architectures import ARCHITECTURES

_CLASSES = {cls.__name__: cls for kind in ARCHITECTURES.values() for cls in (kind, kind.config_class)}
__all__ = list(_CLASSES)
globals().update(_CLASSES)
