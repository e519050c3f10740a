import platform
def test_kernel():
    print(platform.release())
    assert platform.release().startswith("6.1")
