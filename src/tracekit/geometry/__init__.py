"""Pure maths on arrays: cameras, rigid motions, splines, retargeting."""
