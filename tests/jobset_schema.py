"""What gke.sh uses of the published schemas: JobSet v1alpha2, batch/v1 Job and v1 Pod.

Written by hand from the API references of JobSet and Kubernetes, for the fields in use and no
others, so that a misspelt or misplaced one does not pass.
"""

COUNT = {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
DNS_LABEL = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def _object(required: dict, optional: dict | None = None) -> dict:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


_CONTAINER = _object(
    {"name": DNS_LABEL, "image": TEXT},
    {
        "command": TEXTS,
        "args": TEXTS,
        "ports": _list(_object({"containerPort": {"type": "integer", "maximum": 65535}})),
        "securityContext": _object(
            {}, {"runAsUser": COUNT, "capabilities": _object({}, {"add": TEXTS})}
        ),
        "resources": _object(
            {},
            {
                kind: {"type": "object", "additionalProperties": POSITIVE}
                for kind in ("requests", "limits")
            },
        ),
        "volumeMounts": _list(_object({"name": DNS_LABEL, "mountPath": TEXT})),
    },
)

_POD = _object(
    {"containers": _list(_CONTAINER), "restartPolicy": {"enum": ["Never", "OnFailure"]}},
    {
        "nodeSelector": LABELS,
        "serviceAccountName": DNS_LABEL,
        "terminationGracePeriodSeconds": COUNT,
        "tolerations": _list(
            _object(
                {"key": TEXT, "operator": {"enum": ["Equal", "Exists"]}},
                {
                    "value": TEXT,
                    "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                },
            )
        ),
        "volumes": _list(
            _object({"name": DNS_LABEL, "emptyDir": _object({}, {"medium": {"enum": ["Memory"]}})})
        ),
    },
)

_JOB = _object(
    {"template": _object({"spec": _POD})},
    {
        "parallelism": COUNT,
        "completions": COUNT,
        "completionMode": {"enum": ["Indexed", "NonIndexed"]},
        "backoffLimit": COUNT,
    },
)

JOBSET = _object(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": _object({"name": DNS_LABEL}, {"annotations": LABELS}),
        "spec": _object(
            {
                "replicatedJobs": _list(
                    _object(
                        {"name": DNS_LABEL, "template": _object({"spec": _JOB})},
                        {"replicas": COUNT},
                    )
                )
            },
            {"failurePolicy": _object({}, {"maxRestarts": COUNT})},
        ),
    }
)
