"""What a published model is: the contract between training and service, and the shelf of models that ship."""
