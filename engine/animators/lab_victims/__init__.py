"""The victims that ship with the pack: small animators that no loss may see, in an autoencoder of their own."""
