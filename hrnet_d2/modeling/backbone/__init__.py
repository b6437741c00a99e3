"""Backbones: HRNet, HRFPN and the ResNeXt-FPN that HTC is compared with."""
