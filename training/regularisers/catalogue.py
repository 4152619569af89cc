"""The regularisers by name."""

from training.regularisers.disout import Disout
from training.regularisers.dropblock import DropBlock
from training.regularisers.dropconnect import DropConnect
from training.regularisers.dropout import Dropout
from training.regularisers.entry import Regulariser
from training.regularisers.regions import SIZE
from training.regularisers.schedules import falling, rising
from training.regularisers.standout import Standout
from training.regularisers.stochastic_depth import StochasticDepth
from training.regularisers.targeted_dropout import TargetedDropout

REGULARISERS: dict[str, Regulariser] = {
    "dropout": Regulariser("inner", Dropout, source="Srivastava 2014; Zagoruyko & Komodakis 2016"),
    "annealed_dropout": Regulariser("inner", Dropout, schedule=falling, source="Rennie 2014"),
    "standout": Regulariser("inner", Standout, parameters={"alpha": 1.0}, source="Ba & Frey 2013"),
    "dropblock": Regulariser("inner", DropBlock, schedule=rising, parameters={"size": SIZE}, source="Ghiasi 2018"),
    "disout": Regulariser(
        "inner", Disout, schedule=rising, parameters={"size": SIZE, "alpha": 1.0}, source="Tang 2020"
    ),
    "dropconnect": Regulariser("weight", DropConnect, source="Wan 2013"),
    "targeted_dropout": Regulariser("weight", TargetedDropout, parameters={"share": 0.5}, source="Gomez 2019"),
    "stochastic_depth": Regulariser(
        "end", StochasticDepth, depth=lambda position: position, needs_shortcut=True, source="Huang 2016"
    ),
}
