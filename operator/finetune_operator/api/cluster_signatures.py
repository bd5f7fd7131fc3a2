"""Known failures in the words of Kubernetes: why a pod cannot be made, placed, pulled or started.

The operator finds them in conditions and Events; no pod can, because there is none yet.
"""

from __future__ import annotations

from .conditions import Reason
from .signatures.signature import Signature

_RUNTIME = "containerd, by the kubelet"
_KUBELET = "the kubelet"
_SCHEDULER = "the scheduler"
_ADMISSION = "the API server's admission"

_PULL = Reason.IMAGE_PULL.value
_VOLUME = Reason.VOLUME_PENDING.value
_CONFIG = Reason.CONTAINER_CONFIG.value
_PLACE = Reason.UNSCHEDULABLE.value
_CREATE = Reason.WAITING_FOR_PODS.value

_REQUEST = r"failed to (?:do request|pull|resolve|authorize|fetch|copy)\b"
"""Begins what containerd says of a registry; other errors of a network are somebody else's."""

CLUSTER_SIGNATURES = (
    Signature(
        "ImageUnauthorized",
        _PULL,
        r"pull access denied|401 Unauthorized|403 Forbidden|no basic auth credentials"
        r"|authorization failed|requested access to the resource is denied|insufficient_scope",
        "The registry does not let the node pull the image.",
        "name a Secret with its login in spec.workers.imagePullSecrets, in the job's namespace",
        _RUNTIME,
    ),
    Signature(
        "ImageRateLimit",
        _PULL,
        r"toomanyrequests|429 Too Many Requests",
        "The registry refuses more pulls for now.",
        "wait, log in with spec.workers.imagePullSecrets, or mirror the image",
        _RUNTIME,
    ),
    Signature(
        "ImagePlatform",
        _PULL,
        r"no match for platform in manifest",
        "The image has no variant for the node's processor.",
        "choose other nodes with spec.workers.nodeSelector (kubernetes.io/arch)",
        _RUNTIME,
    ),
    Signature(
        "ImageCertificate",
        _PULL,
        _REQUEST + r".{0,400}(?:x509: |server gave HTTP response to HTTPS client"
        r"|tls: failed to verify certificate)",
        "The node does not trust the registry's certificate, or the registry has none.",
        "set up the registry in the container runtime of the nodes (hosts.toml)",
        _RUNTIME,
    ),
    Signature(
        "ImageNotFound",
        _PULL,
        r"manifest unknown|name unknown|repository name not known|404 Not Found"
        r"|failed to resolve reference .{1,300}: not found|: not found$",
        "The registry has no such image or tag.",
        "check spec.model.uri where it is an image://, else the trainer image in the chart's "
        "values",
        _RUNTIME,
    ),
    Signature(
        "ImageRegistryName",
        _PULL,
        _REQUEST + r".{0,400}(?:no such host|server misbehaving)",
        "The name of the registry does not resolve on the node.",
        "check the registry in the image's name, and the node's DNS",
        _RUNTIME,
    ),
    Signature(
        "ImageDiskFull",
        _PULL,
        r"failed to (?:extract|write|copy|pull).{0,300}no space left on device",
        "The node has no disk left for the image.",
        "free disk on the node, or keep the pods off it with spec.workers.affinity",
        _RUNTIME,
    ),
    Signature(
        "ImageRegistryUnreachable",
        _PULL,
        _REQUEST + r".{0,400}(?:connection refused|i/o timeout"
        r"|no route to host|network is unreachable|context deadline exceeded|TLS handshake timeout"
        r"|connection reset by peer)",
        "The node cannot reach the registry.",
        "check the registry, and the network and proxy of the node",
        _RUNTIME,
    ),
    Signature(
        "ImageNameInvalid",
        _PULL,
        r"couldn't parse image name|[Ii]nvalid reference format|InvalidImageName",
        "The image's name is no valid reference.",
        "correct spec.model.uri where it is an image://, else the trainer image in the chart's "
        "values",
        _KUBELET,
    ),
    Signature(
        "ImageNeverPulled",
        _PULL,
        r"is not present with pull policy of Never",
        "The image is not on the node, and the chart forbids pulling it.",
        "load the image on every node, or set the chart's trainer.image.pullPolicy",
        _KUBELET,
    ),
    Signature(
        "QuotaUsedUp",
        Reason.QUOTA_EXCEEDED.value,
        r"exceeded quota: ",
        "The namespace's ResourceQuota does not allow more pods of this size.",
        "raise that ResourceQuota, end other jobs, or ask for less in spec.workers",
        _ADMISSION,
    ),
    Signature(
        "LimitRangeRefuses",
        _CREATE,
        r"(?:maximum|minimum) \S{1,80} usage per (?:Container|Pod) is",
        "The namespace's LimitRange does not allow a pod of this size.",
        "change spec.workers.resources (spec.prepare, spec.export) to lie within that LimitRange",
        _ADMISSION,
    ),
    Signature(
        "PodSecurityRefuses",
        _CREATE,
        r"violates PodSecurity ",
        "The namespace's Pod Security level refuses the pod.",
        "the pods keep the restricted level; look for a webhook that changes them",
        _ADMISSION,
    ),
    Signature(
        "ServiceAccountMissing",
        _CREATE,
        r"error looking up service account |service ?account \"\S{1,253}\" not found",
        "There is no ServiceAccount of that name in the namespace.",
        "create it, or correct spec.workers.serviceAccountName",
        _ADMISSION,
    ),
    Signature(
        "PriorityClassMissing",
        _CREATE,
        r"no PriorityClass with name ",
        "There is no PriorityClass of that name.",
        "create it, or correct spec.workers.priorityClassName",
        _ADMISSION,
    ),
    Signature(
        "WebhookRefuses",
        _CREATE,
        r"admission webhook \"\S{1,253}\" denied the request|failed calling webhook ",
        "An admission webhook of the cluster refuses the pod, or does not answer.",
        "look at the webhook named; ask who runs it what the pod must have",
        _ADMISSION,
    ),
    Signature(
        "VolumeInUse",
        _VOLUME,
        r"Multi-Attach error",
        "The volume can be attached to one node only, and another one has it.",
        "use a claim with access mode ReadWriteMany in spec.storage.claimRef, or wait until the "
        "other "
        "pod is gone",
        "the attach-detach controller",
    ),
    Signature(
        "VolumeDriverMissing",
        _VOLUME,
        r"not found in the list of registered CSI drivers",
        "The node does not run the driver of this kind of volume.",
        "choose nodes that run it with spec.workers.nodeSelector, or install the CSI driver there",
        _KUBELET,
    ),
    Signature(
        "FileServerRefuses",
        _VOLUME,
        r"mount\.nfs\S{0,2}: |access denied by server while mounting",
        "The file server refuses to be mounted on this node.",
        "check the export and its permissions on the file server behind the claim",
        "mount.nfs, by the kubelet",
    ),
    Signature(
        "ConfigMapMissing",
        _VOLUME,
        r"configmap \"\S{1,253}\" not found|references non-existent config key"
        r"|couldn't find key \S{1,253} in ConfigMap ",
        "A ConfigMap that the pod mounts is not there, or lacks the key.",
        "create it, or correct spec.model.chatTemplate.configMapKeyRef",
        _KUBELET,
    ),
    Signature(
        "SecretMissing",
        _VOLUME,
        r"secret \"\S{1,253}\" not found|references non-existent secret key"
        r"|couldn't find key \S{1,253} in Secret ",
        "A Secret that the pod mounts is not there, or lacks the key.",
        "create it with the keys that the field describes (`token` of a hub, `AWS_ACCESS_KEY_ID` "
        "and `AWS_SECRET_ACCESS_KEY` of a bucket), or correct the field's secretRef",
        _KUBELET,
    ),
    Signature(
        "StorageClassMissing",
        _VOLUME,
        r"storageclass\.storage\.k8s\.io \"\S{1,253}\" not found",
        "There is no StorageClass of that name.",
        "correct spec.storage.className, or leave it out for the cluster's default",
        "the volume controller",
    ),
    Signature(
        "ClaimUnbound",
        _VOLUME,
        r"unbound immediate PersistentVolumeClaims"
        r"|didn't find available persistent volumes to bind",
        "The claim has no volume yet.",
        "look at the Events of the claim: its StorageClass makes none, or none is free",
        _SCHEDULER,
    ),
    Signature(
        "VolumeElsewhere",
        _VOLUME,
        r"had volume node affinity conflict|didn't match PersistentVolume's node affinity"
        r"|had no available volume zone",
        "The volume lies in another zone or on another node than the pods may run on.",
        "let spec.workers.nodeSelector and affinity allow the volume's place, or use a volume that "
        "all nodes reach",
        _SCHEDULER,
    ),
    Signature(
        "VolumeMountFailed",
        _VOLUME,
        r"MountVolume\.\w{1,20} failed for volume|Unable to attach or mount volumes"
        r"|AttachVolume\.Attach failed",
        "The node cannot mount a volume.",
        "look at the storage behind the claim, and at its driver on the node",
        _KUBELET,
    ),
    Signature(
        "TooFewGpus",
        _PLACE,
        r"Insufficient nvidia\.com/gpu",
        "Too few nodes have as many free GPUs as one pod asks for.",
        "wait, end other jobs, or lower spec.workers.gpusPerWorker or count",
        _SCHEDULER,
    ),
    Signature(
        "TooLittleRoom",
        _PLACE,
        r"Insufficient (?:cpu|memory|ephemeral-storage|pods)|Too many pods",
        "Too few nodes have the room that one pod asks for.",
        "wait, end other jobs, or lower the requests in spec.workers.resources (spec.prepare, "
        "spec.export)",
        _SCHEDULER,
    ),
    Signature(
        "NodesTainted",
        _PLACE,
        r"had untolerated taint",
        "Nodes are reserved by a taint that the pods do not tolerate.",
        "add it to the tolerations of the stage (spec.prepare, spec.workers or spec.export) if the "
        "job may run there",
        _SCHEDULER,
    ),
    Signature(
        "NoNodeMatches",
        _PLACE,
        r"didn't match Pod's node affinity/selector"
        r"|didn't (?:match|satisfy) (?:existing )?pods? (?:anti-)?affinity",
        "No free node fits the selector or affinity of the pods.",
        "compare nodeSelector of the stage (spec.prepare, spec.workers or spec.export) and "
        "spec.workers.affinity with the labels of the nodes",
        _SCHEDULER,
    ),
    Signature(
        "GpuRuntime",
        _CONFIG,
        r"nvidia-container-cli: |unresolvable CDI devices|failed to inject CDI devices",
        "The node's container runtime cannot hand a GPU to the container.",
        "look at driver and NVIDIA container toolkit of that node; until then keep pods off it",
        "the NVIDIA container toolkit, by containerd",
    ),
    Signature(
        "ImageArchitecture",
        _CONFIG,
        r"exec format error",
        "The image was built for another processor than the node's.",
        "choose other nodes with spec.workers.nodeSelector (kubernetes.io/arch)",
        "runc, by containerd",
    ),
    Signature(
        "ImageCommand",
        _CONFIG,
        r"executable file not found in \$PATH|exec: \"\S{1,200}\": stat .{1,200}no such file",
        "The image does not hold the program that the pod starts.",
        "set the chart's trainer.image to the trainer image of this release",
        "runc, by containerd",
    ),
    Signature(
        "ImageRunsAsRoot",
        _CONFIG,
        r"container has runAsNonRoot and image",
        "The image wants to run as root, which the pods forbid.",
        "set the chart's trainer.image to the trainer image of this release",
        _KUBELET,
    ),
)
