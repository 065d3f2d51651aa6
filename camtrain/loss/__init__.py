"""What an arm minimises: classification plus a term of its class activation maps."""
