"""Node and pod affinity of the training pods: the Kubernetes shapes, without namespaces."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .schema import LabelKey, LabelValue, Rule, SpecModel

Weight = Annotated[int, Field(ge=1, le=100)]


class NodeOperator(StrEnum):
    """How a node label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


VALUES_OF_OPERATOR = {
    NodeOperator.IN: range(1, 33),
    NodeOperator.NOT_IN: range(1, 33),
    NodeOperator.EXISTS: range(1),
    NodeOperator.DOES_NOT_EXIST: range(1),
    NodeOperator.GT: range(1, 2),
    NodeOperator.LT: range(1, 2),
}
"""How many values an operator takes."""


class NodeRequirement(SpecModel):
    """A condition on one node label."""

    key: LabelKey
    """Label of the node."""
    operator: NodeOperator
    """In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = ()
    """Values to compare with; none for Exists and DoesNotExist, one integer for Gt and Lt."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator in ['Exists', 'DoesNotExist']"
            " ? !has(self.values) || self.values.size() == 0"
            " : has(self.values) && self.values.size() > 0"
            " && (self.operator in ['In', 'NotIn'] || self.values.size() == 1)",
            message="values must fit operator: some for In and NotIn, one integer for Gt and Lt, "
            "none for Exists and DoesNotExist",
            field_path=".values",
            check=lambda requirement: (
                len(requirement.values) in VALUES_OF_OPERATOR[requirement.operator]
            ),
        ),
    )


class NodeSelectorTerm(SpecModel):
    """Conditions that must all hold."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(min_length=1, max_length=8)]
    """Conditions on node labels."""


class NodeSelector(SpecModel):
    """Terms of which one must hold."""

    node_selector_terms: Annotated[tuple[NodeSelectorTerm, ...], Field(min_length=1, max_length=8)]
    """Alternatives."""


class PreferredNodes(SpecModel):
    """A wish with a weight."""

    weight: Weight
    """1 to 100; weights of all wishes that hold are added up."""
    preference: NodeSelectorTerm
    """Conditions on node labels."""


class NodeAffinity(SpecModel):
    """Which nodes the pods go to."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that do not match are never used."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(max_length=8)
    ] = ()
    """Nodes that match are used first."""


class PodAffinityTerm(SpecModel):
    """Pods with these labels, within one domain of the topology."""

    topology_key: LabelKey
    """Node label that names the domain: `kubernetes.io/hostname`, `topology.kubernetes.io/zone`."""
    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=8)] | None = None
    """Labels of the other pods. Absent: the training pods of this very job."""


class WeightedPodAffinityTerm(SpecModel):
    """A wish with a weight."""

    weight: Weight
    """1 to 100; weights of all wishes that hold are added up."""
    pod_affinity_term: PodAffinityTerm
    """Which pods, in which domain."""


class PodAffinity(SpecModel):
    """How near to, or how far from, which pods."""

    required_during_scheduling_ignored_during_execution: Annotated[
        tuple[PodAffinityTerm, ...], Field(max_length=8)
    ] = ()
    """Must hold for a pod to be placed."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[WeightedPodAffinityTerm, ...], Field(max_length=8)
    ] = ()
    """Preferred where possible."""


class Affinity(SpecModel):
    """Placement of the training pods."""

    node_affinity: NodeAffinity | None = None
    """Which nodes."""
    pod_affinity: PodAffinity | None = None
    """Near to which pods; without `matchLabels`, to each other: one rack, one zone."""
    pod_anti_affinity: PodAffinity | None = None
    """Apart from which pods; without `matchLabels`, from each other: one pod a node."""
