"""Secrets Manager in memory: secrets with their present and previous value."""

from botocore.exceptions import ClientError


class ResourceNotFound(ClientError):  # noqa: N818  as clients name it
    """There is no such secret, or no such version of it."""


class Exceptions:
    """What the client raises, under the name that boto3 has."""

    ResourceNotFoundException = ResourceNotFound


class Secrets:
    """Secrets by their names, which are their ARNs, too."""

    exceptions = Exceptions

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def create_secret(self, *, Name: str, SecretString: str = "") -> dict[str, str]:  # noqa: N803  as AWS names them
        """Make a secret, perhaps without a value."""
        assert Name not in self._values, f"{Name} is there"
        self._values[Name] = [SecretString] if SecretString else []
        return {"ARN": Name, "Name": Name}

    def put_secret_value(self, *, SecretId: str, SecretString: str) -> dict[str, str]:  # noqa: N803
        """Give a secret another value; the one before becomes its previous."""
        self._of(SecretId, "PutSecretValue").append(SecretString)
        return {"ARN": SecretId}

    def update_secret(self, *, SecretId: str, SecretString: str) -> dict[str, str]:  # noqa: N803
        """Do the same."""
        return self.put_secret_value(SecretId=SecretId, SecretString=SecretString)

    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> dict[str, str]:  # noqa: N803
        """Return a secret's present value, or its previous one."""
        values = self._of(SecretId, "GetSecretValue")
        ago = ("AWSCURRENT", "AWSPREVIOUS").index(VersionStage) + 1
        if len(values) < ago:
            raise _not_found("GetSecretValue")
        return {"ARN": SecretId, "Name": SecretId, "SecretString": values[-ago]}

    def _of(self, name: str, operation: str) -> list[str]:
        if name not in self._values:
            raise _not_found(operation)
        return self._values[name]


def _not_found(operation: str) -> ResourceNotFound:
    said = "Secrets Manager can't find the specified secret."
    return ResourceNotFound({"Error": {"Code": "ResourceNotFoundException", "Message": said}}, operation)
