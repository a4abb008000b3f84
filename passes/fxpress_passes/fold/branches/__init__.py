"""Branches beside a layer, composed into its weight and bias by algebra."""
