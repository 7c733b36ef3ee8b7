"""kmel_p2p: serverless federated ADMET learning."""

__version__ = "0.1.0"
