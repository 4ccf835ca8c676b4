"""placeholder"""
def describe(scene, visible, semseg, view_index):
    return ["a picture."]
