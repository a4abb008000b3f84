"""What passes of low rank share: a weight ==> its best approximations, and the layers that compute with them."""
