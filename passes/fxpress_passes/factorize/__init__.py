"""One weight ==> a product of thinner ones."""
