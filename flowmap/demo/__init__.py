"""A page on which one asks a student, or two side by side: `flowmap demo`.

What is asked and answered knows nothing of Gradio; `page` alone does. May be imported by `cli`.
"""
