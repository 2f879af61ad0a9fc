// The page of the lessons needs a script for its theme only.
import { keptTheme, switchTheme } from "./theme.js";

keptTheme();
document.getElementById("theme").addEventListener("click", switchTheme);
