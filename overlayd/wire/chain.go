package wire

// TypeChain brings a Piece of the sender's certificate chain, as package dht
// encodes it, to a witness that answered NeedChain.
const TypeChain Type = 57
